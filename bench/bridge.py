"""What a message of NATS costs that becomes an event, and how late it is: `python -m bench.bridge`.

5,000 clients of a route with a bridge, whose upstream accepts and stays silent; a real nats-server, and 1,000
messages a second to 10 clients each. In turn with them: events of upstream to the clients of a route without
a bridge, 10,000 a second, and messages to nobody. `late` is from the publishing of a message to the client's
socket, less `grace`. Both are in this process, and CPU is that of the proxy. Measures the proxy of the Python
that runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import shutil
import socket
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.figures import median
from bench.machine import choose_cores, descriptor_limit
from bench.processes import Running, free_port, start
from bench.streams import Origin, cpu_seconds, open_stream, proxy, resident_kib

_STREAMS, _PLAIN, _RATE, _RECIPIENTS, _SECONDS, _ROUNDS = 5000, 4000, 1000, 10, 3.0, 3
_MODES = {"fill, grace 100ms": ("fill", 0.1), "fill, grace 1s": ("fill", 1.0), "replace": ("replace", 1.0)}
_QUANTILES = (50, 90, 99, 99.9)
_NOBODY = 1 << 40
_TIME = b"at="
_EVENT = (
    b'data: {"type":"new_message","chat_id":2,"message":{"id":"%d","chat_id":2,"sender_id":3,'
    b'"content":"%b","files":[],"timestamp":1750852000}}\n\n'
)
_CONFIG = """
listen: 127.0.0.1:{port}
admin: off
logging: {{access: false}}
upstreams: {{origin: {{url: "http://127.0.0.1:{origin}"}}}}
routes:
  - name: bridged
    match: {{path: /bridged}}
    upstream: origin
    stream:
      confirm: {{form: comment}}
      identity: {{verify: upstream}}
      bridge:
        servers: nats://127.0.0.1:{nats}
        mode: {mode}
        grace: {grace}s
        subscriber: claim:user.id
        subjects:
          - subject: fechatter.realtime.chat.*
            when: MessageReceived
            recipients: MessageReceived.recipients
            keys:
              - MessageReceived.message.id
              - MessageReceived.[chat_id, message.sender_id, message.content]
            upstream_keys: [message.id, "[chat_id, sender_id, content]"]
            frames:
              - data: "MessageReceived.{{type: `new_message`, chat_id: chat_id, message: message}}"
  - name: plain
    match: {{path: /*}}
    upstream: origin
    stream: {{confirm: {{form: comment}}}}
"""


@dataclass(frozen=True, slots=True)
class _Run:
    """One kind of load for some seconds. `late`: the milliseconds of each event, in order of size."""

    cpu_us: float
    cpu_share: float
    late: list[float]
    missing: int


class _Load:
    """The clients, and what they get."""

    def __init__(self, origin: Origin, running: Running, nats: socket.socket, grace: float) -> None:
        self._origin, self._running, self._nats, self._grace = origin, running, nats, grace
        self._poll = select.epoll()
        self._clients: dict[int, socket.socket] = {}
        self._late: list[float] = []
        self._less = 0.0
        self._number = 0

    def open(self, path: str, count: int, first: int = 0) -> float:
        """Open streams. Return the resident KiB of each."""
        for user in range(first - 50, first):  # what the first ones allocate belongs to the process
            self._add(open_stream(self._running.port, path, _token(user)))
        before = resident_kib(self._running)
        for user in range(first, first + count):
            self._add(open_stream(self._running.port, path, _token(user)))
        time.sleep(1)
        return (resident_kib(self._running) - before) / count

    def close(self) -> None:
        """Close the clients' connections."""
        for client in self._clients.values():
            client.close()

    def _add(self, client: socket.socket) -> None:
        client.setblocking(False)
        self._clients[client.fileno()] = client
        self._poll.register(client, select.EPOLLIN)

    def publish(self) -> None:
        """Publish a message to some clients."""
        self._publish(random.sample(range(_STREAMS), _RECIPIENTS))

    def publish_to_nobody(self) -> None:
        """Publish a message to users without a stream."""
        self._publish([_NOBODY + index for index in range(_RECIPIENTS)])

    def _publish(self, recipients: list[int]) -> None:
        self._number += 1
        message = {
            "id": str(self._number),
            "chat_id": 2,
            "sender_id": 3,
            "content": _stamp().decode(),
            "files": [],
            "timestamp": 1750852000,
        }
        value = {"MessageReceived": {"message": message, "chat_id": 2, "recipients": recipients}}
        payload = json.dumps(value, separators=(",", ":")).encode()
        self._nats.sendall(b"PUB fechatter.realtime.chat.2 %d\r\n%b\r\n" % (len(payload), payload))

    def relay(self) -> None:
        """Send an event of upstream to each of some clients without a bridge."""
        for stream in random.sample(self._origin.streams["/plain"], _RECIPIENTS):
            self._number += 1
            event = _EVENT % (self._number, _stamp())
            stream.sendall(b"%x\r\n%b\r\n" % (len(event), event))

    def run(self, send: Callable[[], None], seconds: float, *, events: int, grace: float) -> _Run:
        """Call `send` 1,000 times a second, each for so many `events`, and wait for them."""
        self._late, self._less = [], grace
        times = round(seconds * _RATE)
        before, began = cpu_seconds(self._running), time.monotonic()
        for index in range(times):
            while (wait := began + index / _RATE - time.monotonic()) > 0:
                self._receive(wait)
            send()
        over = time.monotonic() + grace + 3
        while len(self._late) < times * events and time.monotonic() < over:
            self._receive(0.1)
        if not events:
            self._receive(0.3)
        used, took = cpu_seconds(self._running) - before, time.monotonic() - began
        missing = times * events - len(self._late)
        return _Run(used / times / (events or 1) * 1e6, used / took, sorted(self._late), missing)

    def _receive(self, wait: float) -> None:
        for number, _ in self._poll.poll(wait):
            data = self._clients[number].recv(65536)
            now = time.monotonic_ns()
            if not data:
                raise AssertionError("a stream has ended")
            parts = data.split(_TIME)
            for part in parts[1:]:
                self._late.append((now - int(part[:19])) / 1e6 - self._less * 1e3)


def _stamp() -> bytes:
    return b"%b%019d and what else people write to each other in a chat of an afternoon" % (
        _TIME,
        time.monotonic_ns(),
    )


def _token(user: int) -> str:
    parts = ({"alg": "EdDSA"}, {"user": {"id": user}, "exp": int(time.time()) + 3600})
    coded = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join((*coded, "AAAA"))


@contextlib.contextmanager
def _nats() -> Iterator[tuple[int, socket.socket]]:
    """A nats-server beside the load, and a connection to it."""
    program = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        sys.exit("bench.bridge needs nats-server (Debian: apt-get install nats-server)")
    port, core = free_port(), choose_cores().load
    command = [program, "-a", "127.0.0.1", "-p", str(port)]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        with (
            start("nats", command, port=port, core=core, log=folder / "log", env=os.environ, cwd=folder),
            socket.create_connection(("127.0.0.1", port)) as connection,
        ):
            connection.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
            yield port, connection


def _measure(mode: str, grace: float, rounds: int, seconds: float) -> int:
    """Print the figures of a mode. Return the number of events that were missing."""
    room = descriptor_limit() // 2 - 500
    streams, plain = _STREAMS, min(_PLAIN, room - _STREAMS)
    values = {"mode": mode, "grace": grace}
    with _nats() as (port, connection), proxy(_CONFIG, nats=port, **values) as (origin, running):
        load = _Load(origin, running, connection, grace)
        kib_plain, kib = load.open("/plain", plain), load.open("/bridged", streams)
        print(f"  memory of an idle stream: {kib:.2f} KiB, without a bridge {kib_plain:.2f} KiB")
        at_once = 0.0 if mode == "replace" else grace
        filled, relayed, unheard = [], [], []
        for _ in range(rounds):
            filled.append(load.run(load.publish, seconds, events=_RECIPIENTS, grace=at_once))
            relayed.append(load.run(load.relay, seconds, events=_RECIPIENTS, grace=0.0))
            unheard.append(load.run(load.publish_to_nobody, seconds, events=0, grace=0.0))
        load.close()
    for name, runs in (("filled", filled), ("relayed", relayed)):
        late = sorted(each for run in runs for each in run.late)
        print(f"  an event that is {name}: {median(run.cpu_us for run in runs):.1f} µs of CPU,", end=" ")
        print(f"{median(run.cpu_share for run in runs):.0%} of a core,", end=" ")
        print("late", ", ".join(f"p{q:g} {late[int(len(late) * q / 100)]:.1f} ms" for q in _QUANTILES))
    ratios = [one.cpu_us / other.cpu_us for one, other in zip(filled, relayed, strict=True)]
    print(f"  ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"  a message to {_RECIPIENTS} without a stream: {median(run.cpu_us for run in unheard):.0f} µs")
    missing = sum(run.missing for run in (*filled, *relayed))
    if missing:
        print(f"  MISSING: {missing} events")
    return missing


def _main() -> int:
    print(f"{_RATE:,} messages a second to {_RECIPIENTS} of {_STREAMS:,} streams each")
    parser = argparse.ArgumentParser(description="What a message of NATS costs that becomes an event.")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--seconds", type=float, default=_SECONDS)
    parser.add_argument("--mode", choices=_MODES, action="append")
    options = parser.parse_args()
    missing = 0
    for title in options.mode or _MODES:
        print(f"{title}:", flush=True)
        missing += _measure(*_MODES[title], options.rounds, options.seconds)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(_main())

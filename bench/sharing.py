"""What a stream that is shared costs beside streams of their own: `python -m bench.sharing`.

An event to 100 clients of one group and to 100 clients without, in turn; then the memory of idle clients: in
groups of 100, each alone in its group, and without groups. Measures the proxy of the Python that runs it.
"""

from __future__ import annotations

import time

from bench.figures import median
from bench.machine import descriptor_limit
from bench.streams import cpu_seconds, open_stream, proxy, resident_kib

_CLIENTS, _EVENTS, _ROUNDS, _IDLE = 100, 500, 6, 3000
_EVENT = b"data: " + b"x" * 192 + b"\n\n"
_CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_CONFIG = """
listen: 127.0.0.1:{port}
admin: off
logging: {{access: false}}
upstreams: {{origin: {{url: "http://127.0.0.1:{origin}"}}}}
routes:
  - name: shared
    match: {{path: /shared}}
    upstream: origin
    stream: {{confirm: {{form: comment}}, share: {{by: credential, max_clients: 100}}}}
  - name: alone
    match: {{path: /*}}
    upstream: origin
    stream: {{confirm: {{form: comment}}}}
"""


def _cpu_per_client(path: str, token: int) -> float:
    """Return the microseconds of CPU of one event for one client."""
    with proxy(_CONFIG) as (origin, running):
        clients = [open_stream(running.port, path, token) for _ in range(_CLIENTS)]
        time.sleep(0.2)  # what belongs to the openings
        before = cpu_seconds(running)
        for _ in range(_EVENTS):
            for stream in origin.streams[path]:
                stream.sendall(_CHUNK)
            for client in clients:
                while not client.recv(65536).endswith(_CHUNK):
                    pass
        return (cpu_seconds(running) - before) / _EVENTS / _CLIENTS * 1e6


def _kib_per_client(path: str, of_one_group: int) -> float:
    """Return the resident memory of an idle client."""
    count = min(_IDLE, descriptor_limit() // 4)
    with proxy(_CONFIG) as (_, running):
        first = [open_stream(running.port, path, -1 - index) for index in range(50)]
        before = resident_kib(running)
        clients = [open_stream(running.port, path, index // of_one_group) for index in range(count)]
        time.sleep(1)
        kib = (resident_kib(running) - before) / count
        for client in (*first, *clients):
            client.close()
    return kib


def _main() -> None:
    shared, alone = [], []
    for token in range(_ROUNDS):
        shared.append(_cpu_per_client("/shared", token))
        alone.append(_cpu_per_client("/alone", token))
    ratios = [one / other for one, other in zip(shared, alone, strict=True)]
    print(f"an event to {_CLIENTS} clients, CPU of each: {median(shared):.2f} µs shared,", end=" ")
    print(f"{median(alone):.2f} µs alone")
    print(f"  ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"an idle client in a group of 100: {_kib_per_client('/shared', 100):.2f} KiB")
    print(f"an idle client alone in its group: {_kib_per_client('/shared', 1):.2f} KiB")
    print(f"an idle client without a group: {_kib_per_client('/alone', 1):.2f} KiB")


if __name__ == "__main__":
    _main()

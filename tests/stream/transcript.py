"""Plays a script to a lifecycle and writes down what it answers, so that tests read as transcripts.

Stands in for the stream: it asks at every `next_deadline`, and what it is told to write is written at once.
Upstream is asked and answers as the script says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import (
    Announce,
    Command,
    Confirm,
    Event,
    Opened,
    Release,
    UpstreamLost,
)
from sse_keepalive_proxy.stream.policy import Keepalive, Reconnect, Stall, StreamPolicy
from sse_keepalive_proxy.stream.states import State

__all__ = [
    "DATA",
    "NOISE",
    "PIECE",
    "Reopens",
    "Sent",
    "Step",
    "Took",
    "Transcript",
    "play",
    "promise",
]


@dataclass(frozen=True, slots=True)
class Sent:
    """Upstream sent bytes: `alive` when they are a sign of life, `whole` when blocks of them went on to the
    client.
    """

    alive: bool
    whole: bool


DATA = Sent(alive=True, whole=True)
NOISE = Sent(alive=False, whole=True)  # what the policy counts as no sign of life
PIECE = Sent(alive=False, whole=False)  # the beginning of a block


@dataclass(frozen=True, slots=True)
class Took:
    """The client took some of the bytes that wait for it."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class Reopens:
    """From now on upstream may be asked again when it is lost, or may not. It wants to be left alone for
    `retry` seconds then.
    """

    allowed: bool = True
    retry: float = 0.0


Step = Event | Sent | Took | Reopens


@dataclass(slots=True)
class Transcript:
    """A lifecycle, the time, and what was said and entered so far, each with its time."""

    life: Lifecycle
    now: float
    said: list[tuple[float, Command]] = field(default_factory=list)
    states: list[tuple[float, State]] = field(default_factory=list)
    taken: int = 0
    unfinished: bool = False  # whether upstream is in the middle of a block
    reopens: bool = False  # whether upstream may be asked again between two blocks

    def wait_until(self, at: float) -> None:
        """Let time pass until `at`, with a timer that is never late."""
        while (due := self.life.next_deadline()) is not None and due <= at:
            self.fire(max(due, self.now))
            later = self.life.next_deadline()
            assert later is None or later > due, "a timer that has fired moves on"
        self.now = at

    def fire(self, at: float) -> None:
        """The timer fires at `at`, whether it is due or not."""
        self.now = at
        self.write_down(self.life.handle_timer(at, self.taken, unfinished=self.unfinished))

    def take(self, step: Step) -> None:
        """One step of the script, now."""
        match step:
            case Took(count=count):
                self.taken += count
            case Reopens(allowed=allowed, retry=retry):
                self.reopens, self.life.retry = allowed, retry
                self.life.reopens = allowed and not self.life.in_block
            case Sent(alive=alive, whole=whole):
                self.receive(alive)
                if whole or self.life.in_block:
                    self.life.written_at = self.now
                if whole:
                    self.life.in_block, self.life.reopens = False, self.reopens
                elif not self.life.in_block:
                    self.write_down(self.life.hold(self.now, begun=not self.unfinished) or ())
                self.unfinished = not whole
            case _:
                self.write_down(self.life.handle(step, self.now))
                if isinstance(step, UpstreamLost | Opened):
                    self.unfinished = self.life.in_block = False

    def receive(self, alive: bool) -> None:
        """Bytes of upstream, on their short way where that is open to them."""
        state, due = self.life.state, self.life.next_deadline()
        commands = self.life.received(self.now, alive)
        if commands is not None:
            self.write_down(commands)
            return
        assert self.life.state is state
        later = self.life.next_deadline()
        assert due is None or later is None or later >= due, "nobody was told to wake earlier"

    def write_down(self, commands: tuple[Command, ...]) -> None:
        """Keep what was answered, and the state when it is another one."""
        for command in commands:
            self.said.append((self.now, command))
            match command:
                case Confirm() | Announce():
                    self.life.written_at = self.now
                case Release():
                    self.life.in_block = True
                    self.life.written_at = self.now
                case _:
                    pass
        if not self.states or self.states[-1][1] is not self.life.state:
            self.states.append((self.now, self.life.state))


def play(
    policy: StreamPolicy,
    *script: tuple[float, Step],
    until: float,
    draw: Callable[[], float] = lambda: 0.5,
) -> Transcript:
    """Play a script of steps and their times, beginning with a request at 0. At one and the same moment the
    timer comes first. `draw` is the lifecycle's.
    """
    transcript = Transcript(Lifecycle(policy, 0.0, draw), 0.0)
    for at, step in script:
        transcript.wait_until(at)
        transcript.take(step)
    transcript.wait_until(until)
    return transcript


def promise(
    *,
    ping: float | None = None,
    stall: Stall | None = None,
    reconnect: Reconnect | None = None,
    write_timeout: float = 1000.0,
) -> StreamPolicy:
    """A policy with nothing on but what is named. `ping`: the keepalive's interval."""
    keepalive = None if ping is None else Keepalive(interval=ping)
    return StreamPolicy(keepalive=keepalive, stall=stall, reconnect=reconnect, write_timeout=write_timeout)

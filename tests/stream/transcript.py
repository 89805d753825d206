"""Plays a script to a lifecycle and writes down what it answers, so that tests read as transcripts.

Stands in for the relay: it asks at every `next_deadline`, and what it is told to write is written at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import Command, Event
from sse_keepalive_proxy.stream.policy import Keepalive, Stall, StreamPolicy
from sse_keepalive_proxy.stream.states import State

__all__ = ["DATA", "NOISE", "PIECE", "Sent", "Step", "Took", "Transcript", "play", "promise"]


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


Step = Event | Sent | Took


@dataclass(slots=True)
class Transcript:
    """A lifecycle, the time, and what was said and entered so far, each with its time."""

    life: Lifecycle
    now: float
    said: list[tuple[float, Command]] = field(default_factory=list)
    states: list[tuple[float, State]] = field(default_factory=list)
    taken: int = 0

    def wait_until(self, at: float) -> None:
        """Let time pass until `at`, with a timer that is never late."""
        while (due := self.life.next_deadline()) is not None and due <= at:
            self.fire(due)
            later = self.life.next_deadline()
            assert later is None or later > due, "a timer that has fired moves on"
        self.now = at

    def fire(self, at: float) -> None:
        """The timer fires at `at`, whether it is due or not."""
        self.now = at
        self.write_down(self.life.handle_timer(at, self.taken))

    def take(self, step: Step) -> None:
        """One step of the script, now."""
        match step:
            case Took(count=count):
                self.taken += count
            case Sent(alive=alive, whole=whole):
                self.write_down(self.life.received(self.now, alive))
                if whole:
                    self.life.written_at = self.now
            case _:
                self.write_down(self.life.handle(step, self.now))

    def write_down(self, commands: tuple[Command, ...]) -> None:
        """Keep what was answered, and the state when it is another one."""
        self.said += [(self.now, command) for command in commands]
        if not self.states or self.states[-1][1] is not self.life.state:
            self.states.append((self.now, self.life.state))


def play(policy: StreamPolicy, *script: tuple[float, Step], until: float) -> Transcript:
    """Play a script of steps and their times, beginning with a request at 0. At one and the same moment the
    timer comes first.
    """
    transcript = Transcript(Lifecycle(policy, 0.0), 0.0)
    for at, step in script:
        transcript.wait_until(at)
        transcript.take(step)
    transcript.wait_until(until)
    return transcript


def promise(
    *, ping: float | None = None, stall: Stall | None = None, write_timeout: float = 1000.0
) -> StreamPolicy:
    """A policy with nothing on but what is named. `ping`: the keepalive's interval."""
    keepalive = None if ping is None else Keepalive(interval=ping)
    return StreamPolicy(keepalive=keepalive, stall=stall, write_timeout=write_timeout)

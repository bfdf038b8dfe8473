"""What comes of one request at one instance, and who is told of it."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

FailureReason = Literal["connect", "reset", "timeout", "status", "engine", "empty", "too_large"]


class Whole(msgspec.Struct, frozen=True):
    """An answer known in full."""

    status: int
    lines: bytes
    """Status line and headers for the client, each ended by its line end."""
    body: bytes


class Stream(msgspec.Struct, frozen=True):
    """An event stream whose first events have come; more waits at its source."""

    status: int
    lines: bytes
    source: Source


class Failure(msgspec.Struct, frozen=True):
    """Nothing that could be passed on; ``answer`` is the instance's own word on it, if any."""

    reason: FailureReason
    answer: Whole | None = None


Answer = Whole | Stream | Failure


class Sender(Protocol):
    """Whoever makes an attempt."""

    def answered(self, answer: Answer) -> None:
        """What came back; called once, unless the attempt is dropped. A stream waits to be passed on."""
        ...

    def ended(self, error: Exception | None) -> None:
        """The stream is at its end; called once after ``pass_on``, unless it is dropped before.

        TransportError or TimeoutError if it broke, RequestError if it was ended from here.
        """
        ...


class Outlet(Protocol):
    """Where a stream goes: an exchange, or what stands before one."""

    @property
    def paused(self) -> bool:
        """Whether the client reads too slowly at the moment."""
        ...

    def start(self, lines: bytes, first: bytes = b"") -> None:
        """The head, and the first events."""
        ...

    def write(self, data: bytes) -> None:
        """More events."""
        ...

    def finish(self, data: bytes = b"") -> None:
        """The last ones."""
        ...


class Source(Protocol):
    """Where a stream comes from."""

    def pass_on(self, lines: bytes, outlet: Outlet) -> None:
        """Pass it on, from its head to its end."""
        ...

    def pause(self) -> None:
        """Hold it back."""
        ...

    def resume(self) -> None:
        """Let it go on."""
        ...

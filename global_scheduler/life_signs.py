"""What is heard of one instance: when its engine's last byte came, and who waits for a first one.

An API server may answer its health page and accept requests while the engine behind it hangs. Then nothing
comes for anybody; where requests are merely many, something always comes for somebody. Pure: the time
comes in by call.
"""

from __future__ import annotations

import math
from typing import Protocol

from block.errors import RequestError


class Correspondent(Protocol):
    """One request at the instance."""

    sent_s: float
    heard_s: float
    """When its last byte came; that of a head does not count, for no engine is needed to write one."""
    streams: bool
    """Whether a first byte comes long before the last."""

    @property
    def waiting(self) -> bool:
        """Whether its first byte is still to come."""
        ...

    def give_up(self) -> None:
        """There is none to come."""
        ...

    def evict(self, error: RequestError) -> None:
        """It must end now, wherever it is."""
        ...


class LifeSigns:
    """Of one instance."""

    def __init__(self) -> None:
        self._open: set[Correspondent] = set()
        self._heard_s = -math.inf

    def begin(self, request: Correspondent) -> None:
        """It has been sent."""
        self._open.add(request)

    def end(self, request: Correspondent) -> None:
        """It is over."""
        self._open.discard(request)
        self._heard_s = max(self._heard_s, request.heard_s)

    def heard_since(self, time_s: float) -> bool:
        """Whether anything has come since then, for anybody."""
        return self._latest() > time_s

    def silence_s(self, now_s: float, *, streams: bool) -> float:
        """How long someone has waited while nothing came for anybody; 0 if nobody waits.

        ``streams``: counts only those who wait for a stream's first byte.
        """
        sent_s = [one.sent_s for one in self._open if one.waiting and (one.streams or not streams)]
        return max(0.0, now_s - max(min(sent_s), self._latest())) if sent_s else 0.0

    def give_up(self) -> None:
        """Whoever waits for a first byte need not wait on, and can go elsewhere."""
        for request in tuple(self._open):
            if request.waiting:
                request.give_up()

    def evict(self, error: RequestError) -> None:
        """End all: who waits for a first byte goes elsewhere, the others end with the error."""
        self.give_up()
        for request in tuple(self._open):
            request.evict(error)

    def _latest(self) -> float:
        return max([self._heard_s, *(one.heard_s for one in self._open)])

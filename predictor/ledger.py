"""The in-flight ledger: choices sent to this engine that its feed has not shown yet.

A committed request counts as waiting until the feed shows it, it is released, or it expires; so two
schedulers that ask one after the other see each other's choice. It also remembers how long responses
are expected to be, for as long as the engine holds the requests. Knows no sockets. It waits by a steady
clock, so that setting the time of day changes nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from block.errors import StateError
from block.lengths import LengthDistribution
from block.messages import CandidateRequest
from block.types import Arrival

# vLLM names a request after the X-Request-Id header: chatcmpl-<id>-<8 hex>, cmpl-<id>-<n>-<8 hex>;
# with n > 1 each of its sequences has that name after its own number: 0_chatcmpl-<id>-<8 hex>.
_ENGINE_ID = re.compile(r"^(?:\d+_)?(?:chatcmpl-(?P<chat>.+)|cmpl-(?P<completion>.+)-\d+)-[0-9a-f]{8}$")


@lru_cache(maxsize=8192)
def router_id(engine_id: str) -> str:
    """The id under which the router knows an engine's request; the engine's own if it has none."""
    match = _ENGINE_ID.match(engine_id)
    if match is None:
        return engine_id
    return match["chat"] or match["completion"]


def length_of(candidate: CandidateRequest) -> LengthDistribution:
    """The distribution that a candidate comes with; raises StateError if it is none."""
    if candidate.output_quantiles:
        return LengthDistribution(candidate.output_quantiles)
    return LengthDistribution.point(candidate.output_tokens)


@dataclass(frozen=True, slots=True)
class _Commitment:
    arrivals: tuple[Arrival, ...]
    at_s: float


@dataclass(frozen=True, slots=True)
class _Departure:
    """Of a request that the engine had, or that was taken back."""

    shown: frozenset[str]
    """The engine's ids of its sequences that came."""
    taken_back: bool
    at_s: float


class Ledger:
    """Committed choices of one engine."""

    def __init__(self, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``ttl_s``: after so much of ``clock`` a choice that the feed never showed is taken as lost."""
        self._ttl_s = ttl_s
        self._clock = clock
        self._waiting: dict[str, _Commitment] = {}
        """Choices of which at least one sequence has not been shown."""
        self._expected: dict[str, LengthDistribution] = {}
        self._present: frozenset[str] = frozenset()
        """The engine's ids of all that it has."""
        self._shown: dict[str, set[str]] = {}
        """By the router's id: the engine's ids of all sequences shown since the first of them came."""
        self._departed: dict[str, _Departure] = {}
        self.version = 0
        """Changes whenever ``arrivals`` or ``length`` may."""

    def commit(self, candidate: CandidateRequest, now_s: float) -> None:
        """Count a request as waiting since ``now_s`` of the engine's time of day.

        A second commit replaces the first. Raises StateError for nonsense.
        """
        for name in ("prompt_tokens", "output_tokens", "max_tokens"):
            if (tokens := getattr(candidate, name)) < 1:
                raise StateError(f"request {candidate.id}: {name} = {tokens}: must be at least 1")
        self.version += 1
        if self._is_over(candidate):
            return  # it came and went, or was taken back, before this word of it arrived
        self._expected[candidate.id] = length_of(candidate)
        self._waiting.pop(candidate.id, None)
        if len(self._shown.get(candidate.id, ())) < candidate.sequences:
            self._waiting[candidate.id] = _Commitment(candidate.arrivals(now_s), self._clock())
        elif self._present.isdisjoint(self._shown[candidate.id]):
            self._leave(candidate.id)

    def release(self, request_id: str) -> None:
        """Forget a choice that will not arrive; word of it that comes later does not bring it back."""
        self._depart(request_id, taken_back=True)
        if self._waiting.pop(request_id, None) is not None:
            self.version += 1
            if self._present.isdisjoint(self._shown.get(request_id, ())):
                self._forget(request_id)

    def observe(self, engine_ids: Iterable[str]) -> None:
        """The feed shows these requests in the engine."""
        present = frozenset(engine_ids)
        come, gone = present - self._present, self._present - present
        self._present = present
        for engine_id in come:
            self._arrive(engine_id)
        for request_id in {router_id(engine_id) for engine_id in gone}:
            if present.isdisjoint(self._shown[request_id]):
                self._leave(request_id)
        self.expire()

    def arrivals(self) -> tuple[Arrival, ...]:
        """The sequences still under way, in order of commitment; see ``expire``."""
        return tuple(
            arrival
            for request_id, entry in self._waiting.items()
            for arrival in entry.arrivals[len(self._shown.get(request_id, ())) :]
        )

    def length(self, engine_id: str) -> LengthDistribution | None:
        """What a router said of a request's response length, by the engine's id or the router's own."""
        return self._expected.get(router_id(engine_id))

    def lengths(self, engine_ids: Iterable[str]) -> list[LengthDistribution | None]:
        """The same of many."""
        expected = self._expected
        return [expected.get(router_id(engine_id)) for engine_id in engine_ids]

    def expire(self) -> None:
        """Give up what the feed has not shown in time. The oldest come first, so hardly any is looked at."""
        horizon_s = self._clock() - self._ttl_s
        while self._waiting and next(iter(self._waiting.values())).at_s < horizon_s:
            request_id = next(iter(self._waiting))
            del self._waiting[request_id]
            self.version += 1
            if self._present.isdisjoint(self._shown.get(request_id, ())):
                self._leave(request_id)
        while self._departed and next(iter(self._departed.values())).at_s < horizon_s:
            del self._departed[next(iter(self._departed))]

    def _is_over(self, candidate: CandidateRequest) -> bool:
        """Whether none of its sequences is still to come or there; takes up again those that have come."""
        departure = self._departed.get(candidate.id)
        if departure is None or candidate.id in self._shown:
            return False
        if departure.taken_back or len(departure.shown) >= candidate.sequences:
            return True
        self._shown[candidate.id] = set(departure.shown)
        return False

    def _arrive(self, engine_id: str) -> None:
        """One sequence is there; with the last one the request is no longer under way."""
        request_id = router_id(engine_id)
        if request_id not in self._shown:
            earlier = self._departed.get(request_id)
            self._shown[request_id] = set() if earlier is None else set(earlier.shown)
        shown = self._shown[request_id]
        shown.add(engine_id)
        entry = self._waiting.get(request_id)
        if entry is not None:
            self.version += 1
            if len(shown) >= len(entry.arrivals):
                del self._waiting[request_id]

    def _leave(self, request_id: str) -> None:
        """None of its sequences is there any more; some may still come."""
        self.version += 1
        if request_id not in self._waiting:
            self._depart(request_id)
            self._forget(request_id)

    def _forget(self, request_id: str) -> None:
        self._shown.pop(request_id, None)
        self._expected.pop(request_id, None)

    def _depart(self, request_id: str, *, taken_back: bool = False) -> None:
        earlier = self._departed.pop(request_id, None)
        taken_back = taken_back or (earlier is not None and earlier.taken_back)
        shown = frozenset(self._shown.get(request_id, ()))
        self._departed[request_id] = _Departure(shown, taken_back, self._clock())

"""The in-flight ledger: choices sent to this engine that its feed has not shown yet.

A committed request counts as waiting until the feed shows it, it is released, or it expires; so two
schedulers that ask one after the other see each other's choice. It also remembers how long responses
are expected to be, for as long as the engine holds the requests. Knows no sockets and no clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
    committed_s: float


class Ledger:
    """Committed choices of one engine. Times are any one clock's seconds, given by the caller."""

    def __init__(self, ttl_s: float) -> None:
        """``ttl_s``: after this a choice that the feed never showed is taken as lost."""
        self._ttl_s = ttl_s
        self._waiting: dict[str, _Commitment] = {}
        """Choices of which at least one sequence has not been shown."""
        self._expected: dict[str, LengthDistribution] = {}
        self._present: frozenset[str] = frozenset()
        """The engine's ids of all that it has."""
        self._shown: dict[str, set[str]] = {}
        """By the router's id: the engine's ids of all sequences shown since the first of them came."""
        self._departed_s: dict[str, float] = {}
        self.version = 0
        """Changes whenever ``arrivals`` or ``length`` may."""

    def commit(self, candidate: CandidateRequest, now_s: float) -> None:
        """Count a request as waiting; a second commit replaces the first. Raises StateError for nonsense."""
        for name in ("prompt_tokens", "output_tokens", "max_tokens"):
            if (tokens := getattr(candidate, name)) < 1:
                raise StateError(f"request {candidate.id}: {name} = {tokens}: must be at least 1")
        self.version += 1
        if candidate.id in self._departed_s and candidate.id not in self._shown:
            return  # it came and went, or was taken back, before this word of it arrived
        self._expected[candidate.id] = length_of(candidate)
        self._waiting.pop(candidate.id, None)
        if len(self._shown.get(candidate.id, ())) < candidate.sequences:
            self._waiting[candidate.id] = _Commitment(candidate.arrivals(now_s), now_s)
        elif self._present.isdisjoint(self._shown[candidate.id]):
            self._leave(candidate.id, now_s)

    def release(self, request_id: str, now_s: float) -> None:
        """Forget a choice that will not arrive; word of it that comes later does not bring it back."""
        self._depart(request_id, now_s)
        if self._waiting.pop(request_id, None) is not None:
            self._forget_length(request_id)
            self.version += 1

    def observe(self, engine_ids: Iterable[str], now_s: float) -> None:
        """The feed shows these requests in the engine."""
        present = frozenset(engine_ids)
        come, gone = present - self._present, self._present - present
        self._present = present
        for engine_id in come:
            self._arrive(engine_id)
        for request_id in {router_id(engine_id) for engine_id in gone}:
            if present.isdisjoint(self._shown[request_id]):
                self._leave(request_id, now_s)
        self.expire(now_s)

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

    def expire(self, now_s: float) -> None:
        """Give up what the feed has not shown in time. The oldest come first, so hardly any is looked at.

        What lies further ahead than that was committed before the clock was set back.
        """
        horizon_s = now_s - self._ttl_s
        while self._waiting and abs(next(iter(self._waiting.values())).committed_s - now_s) > self._ttl_s:
            request_id = next(iter(self._waiting))
            del self._waiting[request_id]
            self._forget_length(request_id)
            self.version += 1
        while self._departed_s and next(iter(self._departed_s.values())) < horizon_s:
            del self._departed_s[next(iter(self._departed_s))]

    def _arrive(self, engine_id: str) -> None:
        """One sequence is there; with the last one the request is no longer under way."""
        request_id = router_id(engine_id)
        shown = self._shown.setdefault(request_id, set())
        shown.add(engine_id)
        entry = self._waiting.get(request_id)
        if entry is not None:
            self.version += 1
            if len(shown) >= len(entry.arrivals):
                del self._waiting[request_id]

    def _leave(self, request_id: str, now_s: float) -> None:
        """None of its sequences is there any more; some may still come."""
        self.version += 1
        if request_id not in self._waiting:
            self._shown.pop(request_id, None)
            self._expected.pop(request_id, None)
            self._depart(request_id, now_s)

    def _forget_length(self, request_id: str) -> None:
        """Unless it is of a sequence that is there."""
        if self._present.isdisjoint(self._shown.get(request_id, ())):
            self._shown.pop(request_id, None)
            self._expected.pop(request_id, None)

    def _depart(self, request_id: str, now_s: float) -> None:
        self._departed_s.pop(request_id, None)
        self._departed_s[request_id] = now_s

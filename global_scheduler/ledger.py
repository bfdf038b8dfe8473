"""Tells predictors what was chosen: commitments, and their release. Fire and forget, never awaited.

Until a predictor has acknowledged a commitment, probes carry it along (``PredictRequest.committed``);
a predictor tells by the id if it knows it already. What it never acknowledges is carried until the
request is over, but no longer than UNTOLD_TTL_S: a predictor that is away must not cost more and more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from block.http.message import Response
from block.messages import CandidateRequest, CommitRequest, ReleaseRequest, Served
from global_scheduler.courier import Courier
from global_scheduler.fleet import Instance

NOTICE_TIMEOUT_S = 2.0
UNTOLD_TTL_S = 10.0
"""Twice what predictors by default wait for the feed to show a committed request."""
MOST_SERVED = 16
"""First bytes per instance that the next commitment carries at most."""


@dataclass(frozen=True, slots=True)
class _Untold:
    candidate: CandidateRequest
    since_s: float


class Commitment:
    """One request's entry at one predictor; nothing if the instance has no predictor."""

    def __init__(self, ledger: Ledger, instance: Instance, id_: str) -> None:
        self._ledger = ledger
        self._instance = instance
        self._id = id_
        self._told = False
        self._released = False

    def release(self) -> None:
        """Take it back: the request will not arrive, or left early. Told after the commitment was."""
        self._released = True
        self._ledger.acknowledge(self._instance, (self._id,))
        if self._told:
            self._ledger.release(self._instance, self._id)

    def served(self, ttft_s: float) -> None:
        """The first byte of its answer came ``ttft_s`` after the predictors were asked."""
        self._ledger.note_served(self._instance, Served(self._id, ttft_s))

    def close(self) -> None:
        """The request is over, and the engine has seen it: nothing is left to tell."""
        self._ledger.acknowledge(self._instance, (self._id,))

    def told(self, answer: Response | None) -> None:
        """The predictor has taken it, or refused, or did not answer."""
        self._told = True
        if answer is not None and answer.status < 300:
            self._ledger.acknowledge(self._instance, (self._id,))
        if self._released:
            self._ledger.release(self._instance, self._id)


class Ledger:
    """All commitments on their way."""

    def __init__(self, courier: Courier, clock: Callable[[], float] = time.monotonic) -> None:
        self._courier = courier
        self._clock = clock
        self._untold: dict[str, dict[str, _Untold]] = {}
        self._served: dict[str, deque[Served]] = {}

    def untold(self, instance: Instance) -> tuple[CandidateRequest, ...]:
        """Choices that the instance's predictor has not acknowledged, oldest first."""
        entries = self._untold.get(instance.name)
        if not entries:
            return ()
        horizon_s = self._clock() - UNTOLD_TTL_S
        while entries and (oldest := next(iter(entries.values()))).since_s < horizon_s:
            del entries[oldest.candidate.id]
        return tuple(entry.candidate for entry in entries.values())

    def acknowledge(self, instance: Instance, ids: Iterable[str]) -> None:
        """The instance's predictor knows of these, or need not any more."""
        entries = self._untold.get(instance.name, {})
        for id_ in ids:
            entries.pop(id_, None)

    def commit(self, instance: Instance, candidate: CandidateRequest) -> Commitment:
        """Tell the instance's predictor that ``candidate`` is on its way."""
        commitment = Commitment(self, instance, candidate.id)
        if instance.predictor is not None:
            entry = _Untold(candidate, self._clock())
            self._untold.setdefault(instance.name, {})[candidate.id] = entry
            served = tuple(self._served.pop(instance.name, ()))
            body = msgspec.json.encode(CommitRequest(candidate, served))
            self._courier.post(instance.predictor, b"/v1/commit", body, NOTICE_TIMEOUT_S, commitment.told)
        return commitment

    def note_served(self, instance: Instance, served: Served) -> None:
        """To be told with the next commitment. A hint: it may be lost, and only the latest are kept."""
        if instance.predictor is not None:
            self._served.setdefault(instance.name, deque(maxlen=MOST_SERVED)).append(served)

    def release(self, instance: Instance, id_: str) -> None:
        """Tell it that the request of that id will not arrive."""
        if instance.predictor is not None:
            body = msgspec.json.encode(ReleaseRequest(id_))
            self._courier.post(instance.predictor, b"/v1/release", body, NOTICE_TIMEOUT_S, _ignore)


def _ignore(_: Response | None) -> None:
    """A release that is lost expires at the predictor."""

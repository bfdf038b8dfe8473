"""Tells predictors what was chosen: commitments, and their release. Fire and forget, never awaited.

Until a predictor has acknowledged a commitment, probes carry it along (``PredictRequest.committed``);
a predictor tells by the id if it knows it already. What it never acknowledges is carried until the
request is over, but no longer than UNTOLD_TTL_S: a predictor that is away must not cost more and more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from block.messages import CandidateRequest, CommitRequest, ReleaseRequest
from global_scheduler.fleet import Instance

NOTICE_TIMEOUT_S = 2.0
UNTOLD_TTL_S = 10.0
"""Twice what predictors by default wait for the feed to show a committed request."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Untold:
    candidate: CandidateRequest
    since_s: float


class Commitment:
    """One request's entry at one predictor; nothing if the instance has no predictor."""

    def __init__(self, ledger: Ledger, instance: Instance, id_: str, told: asyncio.Task[None] | None) -> None:
        self._ledger = ledger
        self._instance = instance
        self._id = id_
        self._told = told

    def release(self) -> None:
        """Take it back: the request will not arrive, or left early."""
        if self._told is not None:
            self._ledger.release(self._instance, self._id, self._told)

    def close(self) -> None:
        """The request is over, and the engine has seen it: nothing is left to tell."""
        self._ledger.acknowledge(self._instance, (self._id,))


class Ledger:
    """All commitments on their way."""

    def __init__(self, session: aiohttp.ClientSession, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._clock = clock
        self._untold: dict[str, dict[str, _Untold]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def untold(self, instance: Instance) -> tuple[CandidateRequest, ...]:
        """Choices that the instance's predictor has not acknowledged, oldest first."""
        entries = self._untold.get(instance.name, {})
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
        told = None
        if instance.predictor_url:
            entry = _Untold(candidate, self._clock())
            self._untold.setdefault(instance.name, {})[candidate.id] = entry
            told = self._spawn(self._commit(instance, candidate))
        return Commitment(self, instance, candidate.id, told)

    def release(self, instance: Instance, id_: str, told: asyncio.Task[None]) -> None:
        """Tell it that the request of that id will not arrive, once it knows of it."""
        self.acknowledge(instance, (id_,))
        self._spawn(self._release(instance, id_, told))

    async def close(self) -> None:
        """Drop what is on its way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _commit(self, instance: Instance, candidate: CandidateRequest) -> None:
        if await self._post(instance, "/v1/commit", msgspec.json.encode(CommitRequest(candidate))):
            self.acknowledge(instance, (candidate.id,))

    async def _release(self, instance: Instance, id_: str, told: asyncio.Task[None]) -> None:
        await asyncio.wait((told,))
        await self._post(instance, "/v1/release", msgspec.json.encode(ReleaseRequest(id_)))

    async def _post(self, instance: Instance, path: str, body: bytes) -> bool:
        """Whether the predictor took it."""
        try:
            async with self._session.post(
                URL(f"{instance.predictor_url}{path}", encoded=True),
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=NOTICE_TIMEOUT_S),
            ) as response:
                await response.read()
                return response.status < 300
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.debug("%s of %s: %s", path, instance.name, error or type(error).__name__)
            return False

    def _spawn(self, notice: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(notice)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

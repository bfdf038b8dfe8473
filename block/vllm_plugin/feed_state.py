"""The feed thread's whole current state: turns captures into the messages of the state feed.

Gives requests their handles and finds what changed. Knows nothing of sockets; of vLLM it reads only
the facts of a ``Request`` that never change, as the engine's thread is changing the others meanwhile.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from vllm.v1.request import Request

from block.errors import UnsupportedError
from block.messages import FEED_VERSION, Clockwork, Delta, RequestFacts, Snapshot
from block.types import EngineLimits, StepRecord
from block.vllm_plugin.capture import Capture
from block.vllm_plugin.queue_view import QueueView, packed, running_columns
from block.vllm_plugin.step_ledger import StepLedger


class FeedState:
    """What a reader that missed nothing holds."""

    def __init__(self, engine_id: str, limits: EngineLimits, time_s: float, engine_name: str = "") -> None:
        """``engine_id`` is of this one life of the engine; ``engine_name``: see ``Snapshot``."""
        self._engine_id, self._engine_name = engine_id, engine_name
        self._limits = limits
        self._seq = 0
        self._clock = Clockwork(step=0, time_s=time_s, free_blocks=limits.total_blocks, preemptions=0)
        self._steps = StepLedger()
        self._handles: dict[str, int] = {}
        self._facts: dict[int, RequestFacts] = {}
        self._next_handle = 0
        self._cached: dict[int, int] = {}
        self._before: Capture | None = None
        self._promised: dict[str, int] = {}
        """Preempted requests -> tokens that the step under way yields for them."""
        self._running = QueueView()
        self._waiting = QueueView()
        self._preempted = b""

    def snapshot(self) -> Snapshot:
        """The whole state, as of the latest delta."""
        return Snapshot(
            version=FEED_VERSION,
            seq=self._seq,
            engine_id=self._engine_id,
            limits=self._limits,
            clock=self._clock,
            requests=tuple(self._facts.values()),
            running=self._running.handles,
            running_columns=self._running.columns,
            waiting=self._waiting.handles,
            waiting_columns=self._waiting.columns,
            preempted=self._preempted,
            cached=self._cached,
            engine_name=self._engine_name,
        )

    def heartbeat(self, time_s: float) -> Delta:
        """A delta that says: as of ``time_s``, nothing has changed."""
        self._clock = replace(self._clock, time_s=time_s)
        return self._delta((), {})

    def update(self, capture: Capture) -> Delta | None:
        """Take in a capture; returns what changed, None if nothing did.

        Raises UnsupportedError for a request that the contract cannot carry.
        """
        capture = self._with_promises(capture)
        finished = self._steps.advance(capture)
        changes = {**self._membership(capture), **self._columns(capture), **self._cache_hits(capture)}
        clock = self._clock_of(capture)
        if not (finished or changes) and replace(clock, time_s=self._clock.time_s) == self._clock:
            return None
        self._clock = clock
        return self._delta(finished, changes)

    def _delta(self, finished: tuple[StepRecord, ...], changes: dict[str, Any]) -> Delta:
        self._seq += 1
        clock = replace(self._clock, finished_steps=finished)
        return Delta(FEED_VERSION, self._seq, self._engine_id, clock, **changes)

    def _clock_of(self, capture: Capture) -> Clockwork:
        return Clockwork(
            step=capture.step,
            time_s=capture.time_s,
            free_blocks=capture.free_blocks,
            preemptions=capture.preemptions,
            in_flight=self._steps.in_flight,
        )

    def _membership(self, capture: Capture) -> dict[str, Any]:
        """Who is in the queues, and in what order."""
        reordered = self._running.differs(capture.running)
        requeued = self._waiting.differs(capture.waiting)
        if not (reordered or requeued):
            return {}
        changes: dict[str, Any] = self._arrivals_and_leavers(capture)
        if reordered:
            changes["running"] = self._running.reorder(capture.running, capture.running, self._handles)
        if requeued:
            ordered = self._considered_order(capture.waiting)
            changes["waiting"] = self._waiting.reorder(capture.waiting, ordered, self._handles)
        return changes

    def _considered_order(self, waiting: list[Request]) -> list[Request]:
        if self._limits.policy == "fcfs":
            return waiting
        # vLLM's own order of a priority queue, by a key because comparing requests is slow.
        return sorted(waiting, key=lambda r: (r.priority, r.arrival_time, r.request_id))

    def _arrivals_and_leavers(self, capture: Capture) -> dict[str, Any]:
        present = {request.request_id: request for request in capture.running}
        present.update((request.request_id, request) for request in capture.waiting)
        gone = self._handles.keys() - present.keys()
        removed = sorted(self._handles.pop(request_id) for request_id in gone)
        for handle in removed:
            del self._facts[handle]
            self._cached.pop(handle, None)
        new = [request for request_id, request in present.items() if request_id not in self._handles]
        return {"added": tuple(map(self._introduce, new)), "removed": packed(removed)}

    def _introduce(self, request: Request) -> RequestFacts:
        if request.resumable:
            raise UnsupportedError(f"request {request.request_id}: streaming input is not supported")
        handle = self._next_handle
        self._next_handle += 1
        facts = RequestFacts(
            handle=handle,
            id=request.request_id,
            arrival_s=request.arrival_time,
            prompt_tokens=request.num_prompt_tokens,
            max_tokens=request.max_tokens,
            priority=request.priority,
        )
        self._handles[facts.id] = handle
        self._facts[handle] = facts
        return facts

    def _with_promises(self, capture: Capture) -> Capture:
        """Tell of preempted requests what vLLM forgets: whether the step under way yields them a token."""
        before, self._before = self._before, capture
        if not capture.preempted:
            self._promised = {}
            return capture
        counters, known = capture.preempted_columns, self._promised
        ids = [request.request_id for request in capture.preempted]
        if fresh := set(ids) - known.keys():
            known = known | self._promised_before(fresh, before)
        promises = [
            known[name] if tokens else 0 for name, tokens in zip(ids, counters.in_flight, strict=True)
        ]
        self._promised = dict(zip(ids, promises, strict=True))
        return capture._replace(preempted_columns=counters._replace(placeholders=promises))

    def _promised_before(self, names: set[str], before: Capture | None) -> dict[str, int]:
        """By the capture before, in which they were still running: its newest step is the one under way."""
        promised = dict.fromkeys(names, 0)
        if before is not None:
            for request, count in zip(before.running, before.columns.placeholders, strict=True):
                name = request.request_id
                if name in names and name in self._steps.newest:
                    promised[name] = min(count, 1)
        return promised

    def _columns(self, capture: Capture) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        newest = self._steps.newest
        running = running_columns(capture.running, capture.columns, newest)
        if self._running.renew(running):
            changes["running_columns"] = running
        waiting = self._waiting.waiting_columns(capture.preempted, capture.preempted_columns, newest)
        if self._waiting.renew(waiting):
            changes["waiting_columns"] = waiting
        preempted = packed(self._handles[request.request_id] for request in capture.preempted)
        if preempted != self._preempted:
            self._preempted = changes["preempted"] = preempted
        return changes

    def _cache_hits(self, capture: Capture) -> dict[str, Any]:
        if not capture.cached:
            return {}
        hits = {self._handles[request_id]: tokens for request_id, tokens in capture.cached}
        self._cached.update(hits)
        return {"cached": hits}

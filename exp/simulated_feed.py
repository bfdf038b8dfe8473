"""A state feed without an engine: the messages that tell of a row of ``EngineState``s.

For measuring and testing what reads the feed. Sends all columns of a queue whenever one of them changes,
as the engine's feed does; knows nothing of sockets.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from block.messages import FEED_VERSION, Clockwork, Columns, Delta, RequestFacts, Snapshot
from block.types import EngineState, RequestState, RequestStatus, StepRecord


class SimulatedFeed:
    """Turns one state after the other into messages."""

    def __init__(self) -> None:
        self._seq = 0
        self._next_handle = 0
        self._handles: dict[str, int] = {}
        self._hits: dict[int, int] = {}
        """Handle -> what was last told of its prefix-cache hit."""
        self._before: dict[str, Any] = {}

    def snapshot(self, state: EngineState) -> Snapshot:
        """The whole of a state."""
        added, _ = self._membership(state)
        self._before, self._hits = self._content(state), {}
        return Snapshot(
            version=FEED_VERSION,
            seq=self._seq,
            engine_id=state.engine_id,
            limits=state.limits,
            clock=_clock(state, ()),
            requests=added,
            cached=self._new_hits((*state.running, *state.waiting)),
            **self._before,
        )

    def delta(self, state: EngineState, finished: tuple[StepRecord, ...] = ()) -> Delta:
        """What is different from the state of the message before; ``finished``: steps since then."""
        added, removed = self._membership(state)
        content, before = self._content(state), self._before
        self._before, self._seq = content, self._seq + 1
        changes = {name: value for name, value in content.items() if value != before.get(name)}
        return Delta(
            version=FEED_VERSION,
            seq=self._seq,
            engine_id=state.engine_id,
            clock=_clock(state, finished),
            added=added,
            removed=removed,
            cached=self._new_hits((*state.running, *state.waiting)),
            **changes,
        )

    def _membership(self, state: EngineState) -> tuple[tuple[RequestFacts, ...], bytes]:
        present = {request.id: request for request in (*state.running, *state.waiting)}
        removed = [self._handles.pop(name) for name in list(self._handles) if name not in present]
        new = [request for name, request in present.items() if name not in self._handles]
        return tuple(map(self._introduced, new)), _packed(removed)

    def _introduced(self, request: RequestState) -> RequestFacts:
        handle = self._handles[request.id] = self._next_handle
        self._next_handle += 1
        return RequestFacts(
            handle, request.id, request.arrival_s, request.prompt_tokens, request.max_tokens, request.priority
        )

    def _content(self, state: EngineState) -> dict[str, Any]:
        preempted = [request for request in state.waiting if request.status == RequestStatus.PREEMPTED]
        return {
            "running": self._packed_handles(state.running),
            "running_columns": _columns(state.running),
            "waiting": self._packed_handles(state.waiting),
            "waiting_columns": _columns(state.waiting),
            "preempted": self._packed_handles(preempted),
        }

    def _packed_handles(self, requests: Sequence[RequestState]) -> bytes:
        return _packed(self._handles[request.id] for request in requests)

    def _new_hits(self, requests: Sequence[RequestState]) -> dict[int, int]:
        """Zeros too, where others were told: who was preempted may find nothing the second time."""
        hits = {self._handles[request.id]: request.cached_tokens for request in requests}
        new = {handle: tokens for handle, tokens in hits.items() if tokens != self._hits.get(handle, 0)}
        self._hits = hits
        return new


def _clock(state: EngineState, finished: tuple[StepRecord, ...]) -> Clockwork:
    return Clockwork(
        state.step, state.time_s, state.free_blocks, state.preemptions, state.in_flight, finished
    )


def _columns(requests: Sequence[RequestState]) -> Columns:
    return Columns(
        computed=_packed(request.computed_tokens for request in requests),
        generated=_packed(request.generated_tokens for request in requests),
        in_flight=_packed(request.in_flight_tokens for request in requests),
        placeholders=_packed(request.output_placeholders for request in requests),
        newest=_packed(request.newest_tokens for request in requests),
    )


def _packed(values: Iterable[int]) -> bytes:
    return array("i", values).tobytes()

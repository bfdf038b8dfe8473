"""Takes the changing state out of a vLLM scheduler, on the engine's own thread, as cheaply as can be.

Only what changes under the engine's hands is copied here: lists of requests and of integers. All
comparing, naming and encoding is left to the feed's thread. Knows nothing of messages or sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus


class QueueColumns(NamedTuple):
    """One entry per request in the queue's order. Plain lists: packing them is the feed thread's work."""

    computed: list[int]
    generated: list[int]
    in_flight: list[int]
    placeholders: list[int]

    @classmethod
    def of(cls, requests: list[Request]) -> QueueColumns:
        """Read the requests' counters."""
        return cls(
            [request.num_computed_tokens for request in requests],
            # num_output_tokens is a property over this list; the call costs more than the length.
            [len(request._output_token_ids) for request in requests],
            [request.num_in_flight_tokens for request in requests],
            [request.num_output_placeholders for request in requests],
        )


NO_COLUMNS = QueueColumns([], [], [], [])


class Capture(NamedTuple):
    """One consistent view of a scheduler; of its ``Request`` objects only what never changes may be read."""

    time_s: float
    step: int
    """Steps scheduled so far."""
    scheduled: dict[str, int]
    """Request id -> tokens of the step just scheduled; empty if none was."""
    running: list[Request]
    columns: QueueColumns
    waiting: list[Request]
    """In the queue's own storage order: ready for first come first served, a heap for priority."""
    preempted: list[Request]
    """The waiting requests that were preempted; only these have counters that are not zero."""
    preempted_columns: QueueColumns
    free_blocks: int
    preemptions: int
    cached: list[tuple[str, int]]
    """Requests admitted in this step with prompt tokens found in the prefix cache."""
    ended: list[tuple[int, float]]
    """Steps whose output arrived since the previous capture, and when."""


class Capturer:
    """Follows one scheduler. Every method is called on the engine's thread."""

    def __init__(self, scheduler: Any, clock: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._step = 0
        self._ended_steps = 0
        self._ended: list[tuple[int, float]] = []
        self._preemptions = 0
        self._preempted: dict[str, Request] = {}
        self._prefix_caching = bool(scheduler.cache_config.enable_prefix_caching)

    def step_scheduled(self, output: SchedulerOutput) -> Capture:
        """Right after ``schedule()``. A batch without tokens is no step."""
        if output.num_scheduled_tokens:
            self._step += 1
        if output.preempted_req_ids:
            self._note_preemptions(output.preempted_req_ids)
        cached = _cache_hits(output) if self._prefix_caching else []
        return self._capture(output.num_scheduled_tokens, cached)

    def step_ended(self, output: SchedulerOutput) -> None:
        """A step's output has arrived. vLLM processes outputs in the order of the steps."""
        if output.num_scheduled_tokens:
            self._ended_steps += 1
            self._ended.append((self._ended_steps, self._clock()))

    def between_steps(self) -> Capture:
        """The state when no step was just scheduled."""
        return self._capture({}, [])

    def _capture(self, scheduled: dict[str, int], cached: list[tuple[str, int]]) -> Capture:
        scheduler = self._scheduler
        running = scheduler.running.copy()
        ended, self._ended = self._ended, []
        preempted = self._still_preempted()
        return Capture(
            time_s=self._clock(),
            step=self._step,
            scheduled=scheduled,
            running=running,
            columns=QueueColumns.of(running),
            waiting=_stored(scheduler.kv_holding_waiting) + _stored(scheduler.waiting),
            preempted=preempted,
            preempted_columns=QueueColumns.of(preempted) if preempted else NO_COLUMNS,
            free_blocks=scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            preemptions=self._preemptions,
            cached=cached,
            ended=ended,
        )

    def _note_preemptions(self, request_ids: set[str]) -> None:
        self._preemptions += len(request_ids)
        known = self._scheduler.requests
        self._preempted.update((id_, known[id_]) for id_ in request_ids if id_ in known)

    def _still_preempted(self) -> list[Request]:
        if not self._preempted:
            return []
        still = {k: r for k, r in self._preempted.items() if r.status == RequestStatus.PREEMPTED}
        self._preempted = still
        return list(still.values())


def _stored(queue: Any) -> list[Request]:
    # Iterating over vLLM's priority queue sorts it, comparing in Python; the heap itself is a plain list.
    return list(getattr(queue, "_heap", queue)) if queue else []


def _cache_hits(output: SchedulerOutput) -> list[tuple[str, int]]:
    return [
        (new.req_id, new.num_computed_tokens)
        for new in output.scheduled_new_reqs
        # Model runner v2 also gets resumed requests this way: their hits are not the prompt's.
        if new.num_computed_tokens and len(new.prefill_token_ids or ()) <= new.prompt_len
    ]

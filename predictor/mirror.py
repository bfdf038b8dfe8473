"""The predictor's copy of one engine's state, built from the feed's messages.

A message is checked whole before any of it counts: after a bad one the mirror still holds the last
good state. Knows nothing of sockets, and never repairs: what contradicts itself is refused by name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import msgspec

from block.errors import FeedError, StateError
from block.messages import FEED_VERSION, Clockwork, Columns, Delta, FeedMessage, RequestFacts, Snapshot
from block.types import EngineLimits, EngineState, RequestState, RequestStatus, StepRecord
from predictor import mirror_checks as checks
from predictor.mirror_queue import MirrorQueue, QueueOrder, unpacked

KEPT_STEPS = 256


class Mirror:
    """Applies snapshots and deltas in order."""

    def __init__(self) -> None:
        self._decoder = msgspec.msgpack.Decoder(FeedMessage)
        self._held: Held | None = None
        self._recent_steps: deque[StepRecord] = deque(maxlen=KEPT_STEPS)
        self._state: EngineState | None = None

    @property
    def ready(self) -> bool:
        """Whether a snapshot has ever arrived."""
        return self._held is not None

    @property
    def held(self) -> Held | None:
        """The latest good state as the feed tells it, with the steps its message reported."""
        return self._held

    @property
    def members(self) -> Mapping[int, RequestFacts]:
        """Handle -> facts of the requests in the engine; another object whenever one comes or leaves."""
        return self._held.facts if self._held is not None else {}

    def apply_bytes(self, data: bytes) -> None:
        """Decode and ``apply`` one feed message; FeedError also if it cannot be decoded."""
        try:
            message = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FeedError(f"feed message: not understood ({error})") from error
        self.apply(message)

    def apply(self, message: FeedMessage) -> None:
        """Apply one message; when it raises, the mirror holds what it held before.

        FeedError: messages are missing, or are another engine's or version's. StateError: the message
        contradicts itself or the state. After either only a snapshot helps.
        """
        if message.version != FEED_VERSION:
            raise FeedError(f"version: {message.version}, but this reader speaks {FEED_VERSION}")
        before = self._held
        if isinstance(message, Snapshot):
            held = Held.of_snapshot(message)
        else:
            held = self._require_held().after(message)
        if before is not None and before.engine_id != held.engine_id:
            self._recent_steps.clear()
        self._recent_steps.extend(message.clock.finished_steps)
        self._held, self._state = held, None

    def state(self) -> EngineState:
        """The engine's state as of the latest good message; raises FeedError before the first snapshot."""
        if self._state is None:
            self._state = self._require_held().state(tuple(self._recent_steps))
        return self._state

    def _require_held(self) -> Held:
        if self._held is None:
            raise FeedError("no snapshot has arrived yet")
        return self._held


@dataclass(frozen=True, slots=True)
class Held:
    """A whole good state; a message makes a new one."""

    engine_id: str
    seq: int
    limits: EngineLimits
    clock: Clockwork
    facts: dict[int, RequestFacts]
    running: MirrorQueue
    waiting: MirrorQueue
    preempted: frozenset[int]
    cached: dict[int, int]

    @classmethod
    def of_snapshot(cls, message: Snapshot) -> Self:
        """Read a snapshot; raises StateError."""
        limits = message.limits
        checks.check_limits(limits)
        facts = _introduced({}, message.requests, limits)
        running = QueueOrder.read("running", message.running, facts)
        waiting = QueueOrder.read("waiting", message.waiting, facts)
        held = cls(
            engine_id=message.engine_id,
            seq=message.seq,
            limits=limits,
            clock=message.clock,
            facts=facts,
            running=MirrorQueue.read(running, message.running_columns, limits),
            waiting=MirrorQueue.read(waiting, message.waiting_columns, limits),
            preempted=_handles("preempted", message.preempted),
            cached=message.cached,
        )
        held._check()
        return held

    def after(self, message: Delta) -> Self:
        """The state that a delta makes of this one; raises FeedError or StateError."""
        self._check_sequence(message)
        facts, cached = self._membership_after(message)
        held = type(self)(
            engine_id=self.engine_id,
            seq=message.seq,
            limits=self.limits,
            clock=message.clock,
            facts=facts,
            running=_renewed(self.running, message.running, message.running_columns, facts, self.limits),
            waiting=_renewed(self.waiting, message.waiting, message.waiting_columns, facts, self.limits),
            preempted=(
                self.preempted if message.preempted is None else _handles("preempted", message.preempted)
            ),
            cached=cached,
        )
        held._check()
        return held

    def _membership_after(self, message: Delta) -> tuple[dict[int, RequestFacts], dict[int, int]]:
        facts, cached = self.facts, self.cached
        if message.removed or message.added:
            left = _handles("removed", message.removed)
            checks.check_known("removed", left, facts)
            staying = {handle: item for handle, item in facts.items() if handle not in left}
            facts = _introduced(staying, message.added, self.limits)
            cached = {handle: tokens for handle, tokens in cached.items() if handle not in left}
        return facts, {**cached, **message.cached} if message.cached else cached

    def state(self, recent_steps: tuple[StepRecord, ...]) -> EngineState:
        """In the simulation's terms."""
        return EngineState(
            engine_id=self.engine_id,
            step=self.clock.step,
            time_s=self.clock.time_s,
            limits=self.limits,
            running=self._requests(self.running, RequestStatus.RUNNING),
            waiting=self._requests(self.waiting, RequestStatus.WAITING),
            free_blocks=self.clock.free_blocks,
            preemptions=self.clock.preemptions,
            in_flight=self.clock.in_flight,
            recent_steps=recent_steps,
        )

    def _requests(self, queue: MirrorQueue, status: RequestStatus) -> tuple[RequestState, ...]:
        columns = (queue.computed, queue.generated, queue.in_flight, queue.newest, queue.placeholders)
        rows = zip(queue.order.facts, *(column.tolist() for column in columns), strict=True)
        return tuple(
            RequestState(
                id=facts.id,
                status=RequestStatus.PREEMPTED if facts.handle in self.preempted else status,
                arrival_s=facts.arrival_s,
                prompt_tokens=facts.prompt_tokens,
                max_tokens=facts.max_tokens,
                computed_tokens=computed,
                generated_tokens=generated,
                in_flight_tokens=in_flight,
                newest_tokens=newest,
                output_placeholders=placeholders,
                cached_tokens=self.cached.get(facts.handle, 0),
                priority=facts.priority,
            )
            for facts, computed, generated, in_flight, newest, placeholders in rows
        )

    def _check_sequence(self, delta: Delta) -> None:
        if delta.engine_id != self.engine_id:
            raise FeedError(f"engine_id: {delta.engine_id}, but the state is of {self.engine_id}: restarted")
        if delta.seq != self.seq + 1:
            raise FeedError(f"seq: {delta.seq} after {self.seq}: messages are missing")
        for name in ("step", "preemptions"):
            before, now = getattr(self.clock, name), getattr(delta.clock, name)
            if now < before:
                raise StateError(f"clock.{name}: {now} after {before}: must not fall")

    def _check(self) -> None:
        checks.check_clock(self.clock, self.limits)
        checks.check_memory(self.running, self.clock.free_blocks, self.limits)
        checks.check_membership(self.running, self.waiting, self.preempted, self.facts)
        checks.check_cached(self.cached, self.facts)


def _introduced(
    known: dict[int, RequestFacts], added: tuple[RequestFacts, ...], limits: EngineLimits
) -> dict[int, RequestFacts]:
    checks.check_facts(added, known, limits)
    return {**known, **{facts.handle: facts for facts in added}}


def _renewed(
    queue: MirrorQueue,
    handles: bytes | None,
    columns: Columns | None,
    facts: dict[int, RequestFacts],
    limits: EngineLimits,
) -> MirrorQueue:
    if handles is None and columns is None:
        return queue
    order = queue.order if handles is None else QueueOrder.read(queue.order.name, handles, facts)
    return MirrorQueue.read(order, queue.columns if columns is None else columns, limits)


def _handles(field: str, data: bytes) -> frozenset[int]:
    return frozenset(unpacked(field, data).tolist())

"""The predictor's copy of one engine's state, built from the feed's messages.

A message is checked whole before any of it counts, by what the simulation asks of a state too: after a bad
one the mirror still holds the last good state. Knows nothing of sockets, and never repairs: what
contradicts itself is refused by name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import msgspec
import numpy as np

from block.errors import FeedError, StateError
from block.messages import FEED_VERSION, Clockwork, Columns, Delta, FeedMessage, RequestFacts, Snapshot
from block.simulation.columns import CACHED, FIELDS, STATUS, EngineColumns
from block.simulation.engine import check_limits
from block.simulation.memory import Floats, Ints
from block.simulation.resume import check_columns
from block.simulation.soundness import longest_if_sound
from block.types import EngineLimits, EngineState, RequestStatus, StepRecord
from predictor import mirror_checks as checks
from predictor.mirror_queue import COLUMN_NAMES, CONSTANT_NAMES, MirrorQueue, QueueOrder, unpacked

KEPT_STEPS = 256
NO_SNAPSHOT = "no snapshot has arrived yet"


class Mirror:
    """Applies snapshots and deltas in order."""

    def __init__(self) -> None:
        self._decoder = msgspec.msgpack.Decoder(FeedMessage)
        self._held: Held | None = None
        self._recent_steps: deque[StepRecord] = deque(maxlen=KEPT_STEPS)
        self._columns: EngineColumns | None = None

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
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FeedError(f"feed message: not understood ({error})") from error
        try:
            self.apply(message)
        except OverflowError as error:
            raise StateError(f"feed message: a number is out of bounds ({error})") from error

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
            columns = held.engine_columns()
        else:
            held = self._require_held().after(message)
            columns = held.engine_columns(before, self._columns)
        if isinstance(message, Snapshot) or not columns.longest:
            held.check()
            check_columns(columns)
        if before is not None and before.engine_id != held.engine_id:
            self._recent_steps.clear()
        self._recent_steps.extend(message.clock.finished_steps)
        self._held, self._columns = held, columns

    def columns(self) -> EngineColumns:
        """The engine's state as of the latest good message, the same object until the next one.

        Raises FeedError before the first snapshot.
        """
        if self._columns is None:
            raise FeedError(NO_SNAPSHOT)
        return self._columns

    def state(self) -> EngineState:
        """The same as values, with the recent steps."""
        return self.columns().state(tuple(self._recent_steps))

    def _require_held(self) -> Held:
        if self._held is None:
            raise FeedError(NO_SNAPSHOT)
        return self._held


@dataclass(frozen=True, slots=True)
class Held:
    """A whole good state; a message makes a new one."""

    engine_id: str
    engine_name: str
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
        check_limits(limits)
        facts = _introduced({}, message.requests, limits)
        running = QueueOrder.read("running", message.running, facts)
        waiting = QueueOrder.read("waiting", message.waiting, facts)
        held = cls(
            engine_id=message.engine_id,
            engine_name=message.engine_name,
            seq=message.seq,
            limits=limits,
            clock=message.clock,
            facts=facts,
            running=MirrorQueue.read(running, message.running_columns),
            waiting=MirrorQueue.read(waiting, message.waiting_columns),
            preempted=_handles("preempted", message.preempted),
            cached=message.cached,
        )
        held._check_membership()
        return held

    def after(self, message: Delta) -> Self:
        """The state that a delta makes of this one; raises FeedError or StateError."""
        self._check_sequence(message)
        facts, cached = self._membership_after(message)
        held = type(self)(
            engine_id=self.engine_id,
            engine_name=self.engine_name,
            seq=message.seq,
            limits=self.limits,
            clock=message.clock,
            facts=facts,
            running=_renewed(self.running, message.running, message.running_columns, facts),
            waiting=_renewed(self.waiting, message.waiting, message.waiting_columns, facts),
            preempted=(
                self.preempted if message.preempted is None else _handles("preempted", message.preempted)
            ),
            cached=cached,
        )
        checks.check_clock(held.clock, held.limits)
        if not held._queues_as(self):
            held._check_membership()
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

    def engine_columns(
        self, before: Held | None = None, columns: EngineColumns | None = None
    ) -> EngineColumns:
        """In the simulation's terms; ``columns`` are those of the state ``before``."""
        running = len(self.running.order.facts)
        if before is not None and columns is not None and self._queues_as(before):
            ids, arrival_s, numbers = columns.ids, columns.arrival_s, columns.numbers.copy()
        else:
            ids, arrival_s, numbers = self._constants()
        changing = len(COLUMN_NAMES)
        numbers[:changing, :running] = self.running.numbers
        numbers[:changing, running:] = self.waiting.numbers
        clock = self.clock
        return EngineColumns(
            engine_id=self.engine_id,
            step=clock.step,
            time_s=clock.time_s,
            limits=self.limits,
            free_blocks=clock.free_blocks,
            preemptions=clock.preemptions,
            in_flight=clock.in_flight,
            ids=ids,
            running=running,
            numbers=numbers,
            arrival_s=arrival_s,
            longest=longest_if_sound(
                numbers, arrival_s, running, len(clock.in_flight), clock.free_blocks, self.limits
            ),
        )

    def check(self) -> None:
        """Raises StateError that names what is wrong, if anything is; ``engine_columns`` tell whether."""
        checks.check_clock(self.clock, self.limits)
        for queue in (self.running, self.waiting):
            queue.check(self.limits)
        checks.check_memory(self.running, self.clock.free_blocks, self.limits)

    def _queues_as(self, before: Held) -> bool:
        """Whether the same requests stand in the same order, and nothing new is known of them."""
        return (
            self.running.order is before.running.order
            and self.waiting.order is before.waiting.order
            and self.facts is before.facts
            and self.preempted is before.preempted
            and self.cached is before.cached
        )

    def _constants(self) -> tuple[tuple[str, ...], Floats, Ints]:
        """Ids, times of arrival, and the numbers of which only the feed's own columns are missing."""
        orders, running = (self.running.order, self.waiting.order), len(self.running.order.facts)
        ids = orders[0].ids + orders[1].ids
        numbers = np.zeros((len(FIELDS), len(ids)), np.int64)
        numbers[STATUS, running:] = RequestStatus.WAITING
        changing, constant = len(COLUMN_NAMES), len(COLUMN_NAMES) + len(CONSTANT_NAMES)
        for order, part in zip(orders, (numbers[:, :running], numbers[:, running:]), strict=True):
            part[changing:constant] = order.constants
        if self.preempted or self.cached:
            self._mark(numbers)
        return ids, np.concatenate([order.arrival_s for order in orders]), numbers

    def _mark(self, numbers: Ints) -> None:
        """Enter what only some requests have."""
        for row, handle in enumerate(self.running.order.handles + self.waiting.order.handles):
            if handle in self.preempted:
                numbers[STATUS, row] = RequestStatus.PREEMPTED
            if handle in self.cached:
                numbers[CACHED, row] = self.cached[handle]

    def _check_sequence(self, delta: Delta) -> None:
        if delta.engine_id != self.engine_id:
            raise FeedError(f"engine_id: {delta.engine_id}, but the state is of {self.engine_id}: restarted")
        if delta.seq != self.seq + 1:
            raise FeedError(f"seq: {delta.seq} after {self.seq}: messages are missing")
        for name in ("step", "preemptions"):
            before, now = getattr(self.clock, name), getattr(delta.clock, name)
            if now < before:
                raise StateError(f"clock.{name}: {now} after {before}: must not fall")

    def _check_membership(self) -> None:
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
) -> MirrorQueue:
    if handles is None and columns is None:
        return queue
    order = queue.order if handles is None else QueueOrder.read(queue.order.name, handles, facts)
    return MirrorQueue.read(order, queue.columns if columns is None else columns)


def _handles(field: str, data: bytes) -> frozenset[int]:
    return frozenset(unpacked(field, data).tolist())

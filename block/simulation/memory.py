"""The two buffers of a simulation, allocated once, and named views into them for Python code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from block.latency.base import KernelLatency
from block.simulation import layout
from block.types import EngineLimits

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

UNBOUNDED = 2**62
"""Steps that no run gets to."""


@dataclass(frozen=True, slots=True)
class Memory:
    """All integers and all reals of one simulation; ``layout`` says what lies where."""

    s: Ints
    f: Floats
    count: int
    """Requests, spare ones included."""

    def copy(self) -> Memory:
        """An independent simulation in the same state."""
        return Memory(self.s.copy(), self.f.copy(), self.count)

    @property
    def requests(self) -> Ints:
        """(count, RECORD) view: one row per request."""
        first = self.s[layout.RECORDS]
        return self.s[first : first + self.count * layout.RECORD].reshape(self.count, layout.RECORD)

    @property
    def times(self) -> Floats:
        """(count, TIME_FIELDS) view: one row per request; nan for what has not happened."""
        first = self.s[layout.REQUEST_TIMES]
        return self.f[first : first + self.count * layout.TIME_FIELDS].reshape(self.count, layout.TIME_FIELDS)

    @property
    def running(self) -> list[int]:
        """Rows of the running requests, in order."""
        first = self.s[layout.RUNNING_QUEUE]
        return self.rows(self.s[first : first + self.s[layout.RUNNING_COUNT]])

    @property
    def waiting(self) -> list[int]:
        """Rows of the waiting requests, in order."""
        return self.rows(self.s[self.s[layout.WAITING_HEAD] : self.s[layout.WAITING_TAIL]])

    @property
    def preempted(self) -> list[int]:
        """Rows of the requests that the latest step preempted."""
        first = self.s[layout.PREEMPTED_LIST]
        return self.rows(self.s[first : first + self.s[layout.STEP_PREEMPTED]])

    def rows(self, positions: Ints) -> list[int]:
        """Row numbers of records given by their positions."""
        return [int(row) for row in (positions - self.s[layout.RECORDS]) // layout.RECORD]

    def position(self, row: int) -> int:
        """Position of a row's record."""
        return int(self.s[layout.RECORDS]) + row * layout.RECORD

    def batch_facts(self, slot: int) -> Ints:
        """(BATCH_FACTS,) view of one batch slot."""
        first = layout.BATCH + slot * layout.BATCH_FACTS
        return self.s[first : first + layout.BATCH_FACTS]

    def seats(self, slot: int) -> Ints:
        """(3, SEATS) view of one batch slot: record position, tokens, whether it yields a token."""
        width = int(self.s[layout.SEATS])
        first = self.s[layout.BATCH_SEATS] + 3 * slot * width
        return self.s[first : first + 3 * width].reshape(3, width)

    def scheduled(self, slot: int) -> dict[int, int]:
        """Row -> tokens of one batch slot, in order."""
        length = self.batch_facts(slot)[layout.LENGTH]
        positions, tokens, _ = self.seats(slot)[:, :length]
        return dict(zip(self.rows(positions), (int(n) for n in tokens), strict=True))


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Sizes from which a ``Memory`` is laid out."""

    limits: EngineLimits
    latency: KernelLatency
    count: int
    shared_hashes: int
    """Dense ids of shared block hashes run below this."""
    shared_entries: int
    """Hash entries of all requests together."""
    table_entries: int
    """Block table entries of all requests together; 0 without prefix caching."""

    def allocate(self) -> Memory:
        """Buffers in which no request is known yet."""
        s, f = self._integers(), self._reals()
        s[layout.REQUEST_TIMES] = f.size - self.count * layout.TIME_FIELDS
        s[layout.CURVE_TOKENS] = layout.FLOAT_HEADER
        s[layout.CURVE_SECONDS] = layout.FLOAT_HEADER + len(self.latency.token_knots)
        s[layout.KNOTS] = len(self.latency.token_knots)
        memory = Memory(s, f, self.count)
        requests = memory.requests
        requests[:, layout.STATUS] = layout.FUTURE
        requests[:, layout.TIMES] = np.arange(s[layout.REQUEST_TIMES], f.size, layout.TIME_FIELDS)
        return memory

    def _integers(self) -> Ints:
        sizes = self._sizes()
        s = np.zeros(layout.HEADER + sum(sizes.values()), np.int64)
        at = layout.HEADER
        for region, size in sizes.items():
            s[region] = at
            at += size
        _write_limits(s, self.limits)
        self._write_beginning(s)
        _write_free_queue(s, sizes[layout.REFERENCES])
        for region in (layout.BLOCK_HASH, layout.HASH_FIRST, layout.HASH_LAST):
            s[s[region] : s[region] + sizes[region]] = -1
        return s

    def _sizes(self) -> dict[int, int]:
        """Of all regions, by the entries that say where they start."""
        n, blocks = self.count, self.limits.total_blocks if self.limits.prefix_caching else 0
        hashes = self.shared_hashes + self.table_entries
        return {
            layout.RECORDS: n * layout.RECORD,
            layout.RUNNING_QUEUE: n + 1,
            # Preempted requests go to the front: room for every one that ever ran.
            layout.WAITING_HEAD: n + 1,
            layout.WAITING_TAIL: n + 1,
            layout.PREEMPTED_LIST: n + 1,
            layout.NEXT_ARRIVAL: n,
            layout.NEXT_ABORT: n,
            layout.BATCH_SEATS: 6 * self._seats,
            layout.BUCKETS: self.limits.block_size,
            layout.BUCKET_NEXT: n,
            layout.HEAP: n + 1,
            layout.ENDING: n + 1,
            layout.SHARED: self.shared_entries,
            layout.TABLES: self.table_entries,
            layout.REFERENCES: blocks,
            layout.BLOCK_HASH: blocks,
            layout.FREE_NEXT: blocks + 2,
            layout.FREE_PREVIOUS: blocks + 2,
            layout.SAME_NEXT: blocks,
            layout.SAME_PREVIOUS: blocks,
            layout.HASH_FIRST: hashes,
            layout.HASH_LAST: hashes,
        }

    @property
    def _seats(self) -> int:
        return max(1, min(self.count, self.limits.max_num_seqs))

    def _write_beginning(self, s: Ints) -> None:
        """Nobody has come yet, and a run goes on to the end unless told otherwise."""
        n = self.count
        s[layout.WAITING_HEAD] = s[layout.WAITING_MIDDLE] = s[layout.WAITING_TAIL]
        s[layout.ARRIVALS] = s[layout.LAST_ARRIVAL] = s[layout.NEXT_ARRIVAL]
        s[layout.LAST_ABORT] = s[layout.NEXT_ABORT]
        s[layout.SEATS] = self._seats
        s[layout.COUNT] = n
        s[layout.AWAITED] = n + 1  # more than can finish
        s[layout.MOST_STEPS] = UNBOUNDED
        s[layout.FOREGROUND] = s[layout.RECORDS]
        s[layout.BACKGROUND] = s[layout.RECORDS] + n * layout.RECORD

    def _reals(self) -> Floats:
        curve = (*self.latency.token_knots, *self.latency.token_seconds)
        f = np.full(layout.FLOAT_HEADER + len(curve) + self.count * layout.TIME_FIELDS, np.nan)
        f[: layout.FLOAT_HEADER] = 0.0
        f[layout.PER_CONTEXT] = self.latency.per_context_token_s
        f[layout.PER_PRODUCT] = self.latency.per_prefill_product_s
        f[layout.PER_REQUEST] = self.latency.per_request_s
        f[layout.FLOAT_HEADER : layout.FLOAT_HEADER + len(curve)] = curve
        return f


def _write_limits(s: Ints, limits: EngineLimits) -> None:
    s[layout.BLOCK_SIZE] = limits.block_size
    s[layout.MAX_SEQS] = limits.max_num_seqs
    s[layout.MAX_BATCHED] = limits.max_num_batched_tokens
    s[layout.MAX_MODEL_LEN] = limits.max_model_len
    s[layout.LONG_PREFILL] = limits.long_prefill_token_threshold
    s[layout.ADAPTIVE_PREFILL] = limits.long_prefill_token_threshold_adaptive
    s[layout.CHUNKED] = limits.chunked_prefill
    s[layout.CACHING] = limits.prefix_caching
    s[layout.BY_PRIORITY] = limits.policy == "priority"
    s[layout.ASYNC] = limits.async_scheduling
    s[layout.WATERMARK] = limits.watermark_blocks
    s[layout.RESERVE_PROMPT] = limits.reserve_full_prompt
    s[layout.TOTAL_BLOCKS] = limits.total_blocks
    s[layout.FREE_BLOCKS] = limits.total_blocks


def _write_free_queue(s: Ints, blocks: int) -> None:
    """From sentinel ``blocks`` through all blocks in order to sentinel ``blocks + 1``."""
    if blocks == 0:
        return
    following, previous = s[layout.FREE_NEXT], s[layout.FREE_PREVIOUS]
    s[following : following + blocks] = np.arange(1, blocks + 1)
    s[following + blocks - 1], s[following + blocks] = blocks + 1, 0
    s[previous : previous + blocks] = np.arange(-1, blocks - 1)
    s[previous], s[previous + blocks + 1] = blocks, blocks - 1

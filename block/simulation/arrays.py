"""The struct of arrays that the compiled simulation works on; allocated once, never grown.

Names of rows are module constants because the compiled code indexes by them. ``n`` is the number of
requests, ``b`` the number of KV blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Rows of ``requests``: one column per request.
PROMPT = 0
MAX_TOKENS = 1  # what the engine knows
STOP_TOKENS = 2  # where the response really ends; at most MAX_TOKENS
PRIORITY = 3
RANK = 4  # order of request ids, the last tie-break of the priority queue
STATUS = 5
COMPUTED = 6
GENERATED = 7
PLACEHOLDERS = 8
IN_FLIGHT = 9
STALE = 10  # in-flight tokens of a preempted request
BLOCKS = 11  # KV blocks held
CACHED_BLOCKS = 12  # of those, entered in the prefix cache
HIT_TOKENS = 13  # prefix-cache hit at the latest admission
PREEMPTIONS = 14
SHARED_HASHES = 15  # leading blocks whose hash may be shared
HASHES_AT = 16  # where they start in ``hashes``
OWN_HASH = 17  # hash of own block i is OWN_HASH + i
TABLE_AT = 18  # where the block table starts in ``tables``
REQUEST_ROWS = 19

# Values of STATUS.
RUNNING = 0
WAITING = 1
PREEMPTED = 2
FUTURE = 3
FINISHED = 4
ABORTED = 5

# Rows of ``times``.
ARRIVAL = 0
FIRST_TOKEN = 1
FINISH = 2
TIME_ROWS = 3

# Entries of ``counters``.
RUNNING_COUNT = 0
WAITING_HEAD = 1
WAITING_TAIL = 2
FREE_BLOCKS = 3
TOTAL_PREEMPTIONS = 4
STEPS = 5
NEXT_ARRIVAL = 6
BATCHES = 7  # submitted and not processed
UNFINISHED = 8
STEP_PREEMPTED = 9  # length of ``preempted``
OUTSIDE_STEPS = 10  # steps beyond what the latency model covers
COUNTERS = 11

# Entries of ``limits``.
BLOCK_SIZE = 0
MAX_SEQS = 1
MAX_BATCHED = 2
MAX_MODEL_LEN = 3
LONG_PREFILL = 4
CHUNKED = 5
CACHING = 6
BY_PRIORITY = 7
ASYNC = 8
WATERMARK = 9
RESERVE_PROMPT = 10
TOTAL_BLOCKS = 11
LIMITS = 12

# Entries of ``clock``.
NOW = 0
GPU_FREE = 1
CLOCKS = 2

# Rows of ``batch_facts``: one column per batch slot.
LENGTH = 0
TOKENS = 1
DECODES = 2
CONTEXT = 3
PRODUCTS = 4
BATCH_FACTS = 5

SLOTS = 2  # asynchronous scheduling runs one batch ahead


class Arrays(NamedTuple):
    """Everything a simulation owns."""

    limits: Ints  # (LIMITS,)
    counters: Ints  # (COUNTERS,)
    clock: Floats  # (CLOCKS,)
    requests: Ints  # (REQUEST_ROWS, n)
    times: Floats  # (TIME_ROWS, n)
    arrivals: Ints  # requests still to arrive, in order of arrival
    running: Ints  # the running queue
    waiting: Ints  # the waiting queue lies in [WAITING_HEAD, WAITING_TAIL)
    preempted: Ints  # preempted by the latest schedule()
    batch_facts: Ints  # (BATCH_FACTS, SLOTS)
    batch_starts: Floats  # (SLOTS,)
    batch_ends: Floats  # (SLOTS,)
    batch_requests: Ints  # (SLOTS, seats)
    batch_tokens: Ints  # (SLOTS, seats)
    batch_emits: Ints  # (SLOTS, seats): whether the request yields a token
    knots: Floats  # latency curve: tokens
    seconds: Floats  # latency curve: seconds
    slopes: Floats  # per context token, per prefill product, per request
    hashes: Ints  # shared block hashes, dense ids
    tables: Ints  # block tables, one after the other
    block_references: Ints  # (b,)
    block_hash: Ints  # (b,), -1 when not cached
    free_next: Ints  # (b + 2,): free queue between the sentinels b (head) and b + 1 (tail)
    free_previous: Ints  # (b + 2,)
    hash_first: Ints  # first block cached under a hash, -1 when none
    hash_last: Ints
    same_next: Ints  # (b,): next block cached under the same hash
    same_previous: Ints

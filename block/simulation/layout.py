"""Where everything lies in the two buffers that the compiled simulation works on.

All integers of a simulation are one int64 array ``s``, all reals one float64 array ``f``: two arguments
for every compiled function, and a copy is two block copies. ``s`` starts with a header of scalars; some
of them say where a region starts. A request is a record of ``RECORD`` integers in ``s``, named by its
position ``q``: its field is ``s[q + FIELD]``. Its times are ``f[s[q + TIMES] + FIELD]``.
"""

from __future__ import annotations

from typing import Final

# The engine's limits.
BLOCK_SIZE: Final = 0
MAX_SEQS: Final = 1
MAX_BATCHED: Final = 2
MAX_MODEL_LEN: Final = 3
LONG_PREFILL: Final = 4
CHUNKED: Final = 5
CACHING: Final = 6
BY_PRIORITY: Final = 7
ASYNC: Final = 8
WATERMARK: Final = 9
RESERVE_PROMPT: Final = 10
TOTAL_BLOCKS: Final = 11
# Counters.
RUNNING_COUNT: Final = 12
WAITING_HEAD: Final = 13  # positions in s
WAITING_TAIL: Final = 14
FREE_BLOCKS: Final = 15
PREEMPTIONS_DONE: Final = 16
STEPS: Final = 17
NEXT_ARRIVAL: Final = 18  # positions in s
LAST_ARRIVAL: Final = 19
BATCHES: Final = 20  # submitted and not processed
UNFINISHED: Final = 21
STEP_PREEMPTED: Final = 22  # length of the list at PREEMPTED_LIST
OUTSIDE_STEPS: Final = 23  # steps beyond what the latency curve covers
KNOTS: Final = 24  # length of the latency curve
# Where regions of s start.
RECORDS: Final = 25
RUNNING_QUEUE: Final = 26
PREEMPTED_LIST: Final = 27
BATCH_SEATS: Final = 28  # two slots of three rows: request, tokens, whether it yields a token
SEATS: Final = 29  # length of one such row
BUCKETS: Final = 30  # leaping: first request by block remainder
BUCKET_NEXT: Final = 31  # leaping: next request in the same bucket, by place in the running queue
SHARED: Final = 32  # shared block hashes, dense ids
TABLES: Final = 33  # block tables
REFERENCES: Final = 34  # per block
BLOCK_HASH: Final = 35  # per block; -1 when not cached
FREE_NEXT: Final = 36  # free queue between the sentinels TOTAL_BLOCKS (head) and TOTAL_BLOCKS + 1 (tail)
FREE_PREVIOUS: Final = 37
SAME_NEXT: Final = 38  # per block: next block cached under the same hash
SAME_PREVIOUS: Final = 39
HASH_FIRST: Final = 40  # per hash: first block cached under it, -1 when none
HASH_LAST: Final = 41
# Where regions of f start.
CURVE_TOKENS: Final = 42
CURVE_SECONDS: Final = 43
REQUEST_TIMES: Final = 44
NEXT_ABORT: Final = 45  # positions in s
LAST_ABORT: Final = 46
ADAPTIVE_PREFILL: Final = 47
# Gliding: the requests that decode as one body.
COHORT: Final = 48  # how many they are
DRIFT: Final = 49  # their common progress since they were gathered
COHORT_CONTEXT: Final = 50  # sum of their COMPUTED, short of DRIFT each
HEAP: Final = 51  # where the heap of members by END_DRIFT starts in s
ENDING: Final = 52  # where the list of members that end in this step starts in s
# What a run is for: it ends with them, whoever else is still to come or go.
AWAITED: Final = 53  # how many are to finish yet
BACKGROUND: Final = 54  # position of the first record behind them
FOREGROUND: Final = 55  # position of the first of them
MOST_STEPS: Final = 56  # a run goes no further
# Where things start when nothing has happened yet, and how many records there are.
WAITING_MIDDLE: Final = 57
ARRIVALS: Final = 58
COUNT: Final = 59
# The batch slots' facts: slot k has its own BATCH_FACTS entries from BATCH + k * BATCH_FACTS on.
BATCH: Final = 60
BATCH_FACTS: Final = 5
HEADER: Final = BATCH + 2 * BATCH_FACTS

# Facts of a batch slot.
LENGTH: Final = 0
TOKENS: Final = 1
DECODES: Final = 2
CONTEXT: Final = 3
PRODUCTS: Final = 4

# Fields of a request's record.
(
    PROMPT,
    MAX_TOKENS,  # what the engine knows
    STOP_TOKENS,  # where the response really ends; at most MAX_TOKENS
    PRIORITY,
    RANK,  # order of request ids, the last tie-break of the priority queue
    LIKELY_HITS,  # without the cache's content: leading blocks that it is said to hold
    STATUS,
    COMPUTED,
    GENERATED,
    PLACEHOLDERS,
    IN_FLIGHT,
    STALE,  # in-flight tokens of a preempted request
    BLOCKS,  # KV blocks held
    CACHED_BLOCKS,  # of those, entered in the prefix cache
    HIT_TOKENS,  # prefix-cache hit at the latest admission
    PREEMPTIONS,
    SHARED_HASHES,  # leading blocks whose hash may be shared
    HASHES_AT,  # where they start in s
    OWN_HASH,  # hash of own block i is OWN_HASH + i
    TABLE_AT,  # where the block table starts in s
    BORROWED,  # blocks held that others hold too: without prefix caching, releasing frees the rest
    END_DRIFT,  # gliding: DRIFT at which the last token has come; 0 outside the cohort
    TIMES,  # where the times start in f
    RECORD,
) = range(24)

# Values of STATUS.
RUNNING: Final = 0
WAITING: Final = 1
PREEMPTED: Final = 2
FUTURE: Final = 3
FINISHED: Final = 4
ABORTED: Final = 5

# Entries of f.
NOW: Final = 0
GPU_FREE: Final = 1
PER_CONTEXT: Final = 2
PER_PRODUCT: Final = 3
PER_REQUEST: Final = 4
BATCH_START: Final = 5  # and the next
BATCH_END: Final = 7  # and the next
EMPTY_STEP: Final = 9  # seconds of a step that only preempts
FLOAT_HEADER: Final = 10

# Times of a request.
ARRIVAL: Final = 0
FIRST_TOKEN: Final = 1
FINISH: Final = 2
ABORT: Final = 3
TIME_FIELDS: Final = 4

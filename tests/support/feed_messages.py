"""Feed messages written by hand, and a publisher for them."""

from __future__ import annotations

from array import array

from block.messages import FEED_VERSION, Clockwork, Columns, RequestFacts, Snapshot
from block.types import EngineLimits

LIMITS = EngineLimits(
    block_size=16, total_blocks=1052, max_num_seqs=48, max_num_batched_tokens=512, max_model_len=4096
)


def packed(*values: int) -> bytes:
    return array("i", values).tobytes()


def snapshot(ids: list[str], time_s: float, seq: int = 1, max_tokens: int = 100) -> Snapshot:
    """An engine between two steps in which each request has 20 of 21 tokens computed."""
    count = len(ids)
    return Snapshot(
        version=FEED_VERSION,
        seq=seq,
        engine_id="engine",
        limits=LIMITS,
        clock=Clockwork(step=9, time_s=time_s, free_blocks=1052 - 2 * count, preemptions=0),
        requests=tuple(RequestFacts(i, name, time_s, 20, max_tokens) for i, name in enumerate(ids)),
        running=packed(*range(count)),
        running_columns=Columns(*(packed(*[value] * count) for value in (20, 1, 0, 0, 0))),
        waiting=b"",
        waiting_columns=Columns(),
    )

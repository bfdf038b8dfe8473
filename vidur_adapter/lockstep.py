"""Two engines that share layers of experts: they step together, the quicker waits for the slower.

An engine without work computes along on nothing, so that the other's step goes on at its own pace.
"""

from __future__ import annotations

from collections.abc import Sequence

from block.simulation import layout
from block.simulation.engine import Outcome
from vidur_adapter.batch import StepBatch
from vidur_adapter.replay import Replay


def run_in_lockstep(replays: Sequence[Replay]) -> list[list[Outcome]]:
    """Each engine's outcomes, in order; raises StateError as ``Replay.run`` does."""
    pending: list[StepBatch | None] = [replay.next_batch() for replay in replays]
    while any(pending):
        waiting = [each for each in zip(replays, pending, strict=True) if each[1] is not None]
        start_s = min(replay.start_s for replay, _ in waiting)
        together = [(replay, batch) for replay, batch in waiting if replay.start_s <= start_s]
        _step([replay for replay, _ in together], [batch for _, batch in together if batch], replays)
        stepped = [replay for replay, _ in together]
        pending = [
            replay.next_batch() if replay in stepped else batch
            for replay, batch in zip(replays, pending, strict=True)
        ]
    return [replay.simulation.outcomes() for replay in replays]


def _step(stepping: list[Replay], batches: list[StepBatch], replays: Sequence[Replay]) -> None:
    """All that have a batch at this time; the others cannot begin one before it ends."""
    start_s = stepping[0].start_s
    for replay, batch in zip(stepping, batches, strict=True):
        replay.settle(batch, sum(each.tokens for each in batches) - batch.tokens)
    end_s = start_s + max(replay.step_s[-1] for replay in stepping)
    for replay in replays:
        if replay in stepping:
            replay.last_until(start_s, end_s)
        else:
            replay.not_before(end_s)
        replay.simulation.memory.f[layout.GPU_FREE] = end_s

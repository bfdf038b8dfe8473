"""What must hold of a mirrored engine whatever it does; every refusal names the field and the value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from operator import attrgetter

from block.errors import StateError
from block.messages import Clockwork, RequestFacts
from block.types import BatchShape, EngineLimits
from predictor.mirror_queue import MirrorQueue

POSITIVE_LIMITS = ("total_blocks", "max_num_seqs", "max_num_batched_tokens", "max_model_len")
MOST_BLOCK_TOKENS = 2**16
_numbers_of = attrgetter(*BatchShape.__slots__)
MOST = 2**31 - 1
"""Of anything that is counted; beyond, sums would not fit the simulation's integers."""


def check_limits(limits: EngineLimits) -> None:
    """Raises StateError for a limit that no engine can have."""
    _within("limits.block_size", limits.block_size, 1, MOST_BLOCK_TOKENS)
    for name in POSITIVE_LIMITS:
        _within(f"limits.{name}", getattr(limits, name), 1, MOST)
    for name in ("watermark_blocks", "long_prefill_token_threshold"):
        _within(f"limits.{name}", getattr(limits, name), 0, MOST)


def check_facts(
    added: Iterable[RequestFacts], known: Mapping[int, RequestFacts], limits: EngineLimits
) -> None:
    """Raises StateError for a request that no engine would have accepted, or that is already there."""
    taken = set(known)
    for facts in added:
        where = f"request {facts.id!r}"
        if facts.handle in taken:
            raise StateError(f"{where}: handle {facts.handle} is taken")
        taken.add(facts.handle)
        _not_negative(f"{where}: handle", facts.handle)
        _finite(f"{where}: arrival_s", facts.arrival_s)
        _within(f"{where}: prompt_tokens", facts.prompt_tokens, 1, limits.max_model_len)
        _within(f"{where}: max_tokens", facts.max_tokens, 1, MOST)
        _within(f"{where}: priority", facts.priority, -(2**63), 2**63 - 1)


def check_clock(clock: Clockwork, limits: EngineLimits) -> None:
    """Raises StateError for counters and step times that contradict each other."""
    if min(clock.step, clock.free_blocks, clock.preemptions) < 0:
        for name in ("step", "free_blocks", "preemptions"):
            _not_negative(f"clock.{name}", getattr(clock, name))
    _finite("clock.time_s", clock.time_s)
    if clock.free_blocks > limits.total_blocks:
        raise StateError(f"clock.free_blocks: {clock.free_blocks} of {limits.total_blocks}")
    steps = [item.step for item in clock.in_flight]
    if steps != sorted(set(steps)) or any(step > clock.step for step in steps):
        raise StateError(f"clock.in_flight: steps {steps} at step {clock.step}")
    for under_way in clock.in_flight:
        _finite("clock.in_flight.submit_s", under_way.submit_s)
        _check_shape("clock.in_flight.shape", under_way.shape)
    for done in clock.finished_steps:
        for name in ("submit_s", "end_s", "duration_s"):
            _finite(f"clock.finished_steps.{name}", getattr(done, name))
        _check_shape("clock.finished_steps.shape", done.shape)


def check_memory(running: MirrorQueue, free_blocks: int, limits: EngineLimits) -> None:
    """Raises StateError if the running requests hold more than the blocks in use, or are too many."""
    count = len(running.order.facts)
    if count > limits.max_num_seqs:
        raise StateError(f"running: {count} requests, but max_num_seqs is {limits.max_num_seqs}")
    if limits.prefix_caching:
        # Requests may share blocks, so their sum says nothing.
        return
    used, needed = limits.total_blocks - free_blocks, running.blocks(limits.block_size)
    if needed > used:
        raise StateError(f"running_columns.computed: tokens of {needed} blocks, but {used} are in use")


def check_membership(
    running: MirrorQueue, waiting: MirrorQueue, preempted: frozenset[int], facts: Mapping[int, RequestFacts]
) -> None:
    """Raises StateError unless every known request stands in exactly one queue."""
    queued = running.order.handles + waiting.order.handles
    if len(queued) != len(facts) or len(set(queued)) != len(queued):
        raise StateError(f"running, waiting: {len(queued)} places for {len(facts)} requests")
    if strangers := preempted.difference(waiting.order.handles):
        raise StateError(f"preempted: handle {min(strangers)} is not waiting")


def check_known(field: str, handles: Iterable[int], facts: Mapping[int, RequestFacts]) -> None:
    """Raises StateError for a handle that stands for no request."""
    strangers = [handle for handle in handles if handle not in facts]
    if strangers:
        raise StateError(f"{field}: unknown handle {strangers[0]}")


def check_cached(cached: Mapping[int, int], facts: Mapping[int, RequestFacts]) -> None:
    """Raises StateError for a prefix-cache hit of no request, or longer than its prompt."""
    check_known("cached", cached, facts)
    for handle, tokens in cached.items():
        if not 0 <= tokens <= facts[handle].prompt_tokens:
            raise StateError(f"cached: {tokens} of {facts[handle].prompt_tokens} prompt tokens")


def _check_shape(field: str, shape: BatchShape) -> None:
    if min(_numbers_of(shape)) < 0:
        for name in BatchShape.__slots__:
            _not_negative(f"{field}.{name}", getattr(shape, name))


def _within(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise StateError(f"{field}: {value} not in {least}..{most}")


def _not_negative(field: str, value: int) -> None:
    if value < 0:
        raise StateError(f"{field}: {value} must not be negative")


def _finite(field: str, value: float) -> None:
    if not math.isfinite(value) or value < 0:
        raise StateError(f"{field}: {value} is no time")

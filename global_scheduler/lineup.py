"""The candidates as a policy sees them: from instances, their traffic, and what predictors answered."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from block.messages import PredictResponse
from global_scheduler.fleet import Instance
from global_scheduler.policies.base import Candidate, RoutingRequest
from global_scheduler.prefixes import BLOCK_BYTES


def cached_tokens(
    request: RoutingRequest, instances: Sequence[Instance], prompt_bytes: int
) -> dict[str, int]:
    """Leading prompt tokens that instances have probably cached, by name; those with none are left out.

    ``prompt_bytes`` is the length of what the prefix digests were made from.
    """
    digests = request.prefix_digests
    if not digests:
        return {}
    per_block = request.prompt_tokens * BLOCK_BYTES / max(prompt_bytes, 1)
    matched = ((one.name, one.traffic.prefixes.matched_blocks(digests)) for one in instances)
    return {name: int(blocks * per_block) for name, blocks in matched if blocks}


def line_up(
    instances: Sequence[Instance],
    answers: Mapping[str, PredictResponse],
    cached: Mapping[str, int],
    last_state_max_age_s: float | None = None,
) -> list[Candidate]:
    """One candidate per instance, in their order. ``cached``: see ``cached_tokens``.

    With a ``last_state_max_age_s``, last known loads up to that age stand in for answers.
    """
    now_s = time.monotonic()
    if not answers and last_state_max_age_s is None:  # as where nobody is asked
        return [_unasked(one, cached.get(one.name, 0) if cached else 0, now_s) for one in instances]
    return [
        _candidate(one, answers.get(one.name), cached.get(one.name, 0), last_state_max_age_s, now_s)
        for one in instances
    ]


def _unasked(instance: Instance, cached: int, now_s: float) -> Candidate:
    traffic = instance.traffic
    return Candidate(
        instance.name,
        traffic.outstanding,
        None,
        None,
        None,
        traffic.outstanding_tokens,
        traffic.sent_last_minute(now_s),
        cached,
    )


def _candidate(
    instance: Instance,
    answer: PredictResponse | None,
    cached: int,
    last_state_max_age_s: float | None,
    now_s: float,
) -> Candidate:
    traffic = instance.traffic
    load = answer.load if answer is not None else None
    if load is None and last_state_max_age_s is not None:
        load = traffic.last_known_load(now_s, last_state_max_age_s)
    return Candidate(
        instance.name,
        traffic.outstanding,
        None if answer is None else answer.prediction,
        load,
        None if answer is None else answer.spread,
        traffic.outstanding_tokens,
        traffic.sent_last_minute(now_s),
        cached,
    )

"""The candidates as a policy sees them: from instances, their traffic, and what predictors answered."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from block.messages import PredictResponse
from global_scheduler.fleet import Instance
from global_scheduler.policies.base import Candidate, RoutingRequest
from global_scheduler.prefixes import BLOCK_BYTES


def line_up(
    request: RoutingRequest,
    instances: Sequence[Instance],
    answers: Mapping[str, PredictResponse],
    prompt_bytes: int,
    last_state_max_age_s: float | None,
) -> list[Candidate]:
    """One candidate per instance, in their order.

    ``prompt_bytes`` is the length of what the prefix digests were made from. With a
    ``last_state_max_age_s``, last known loads up to that age stand in for answers.
    """
    now_s = time.monotonic()
    tokens_per_block = request.prompt_tokens * BLOCK_BYTES / max(prompt_bytes, 1)
    return [
        _candidate(request, one, answers.get(one.name), tokens_per_block, last_state_max_age_s, now_s)
        for one in instances
    ]


def _candidate(
    request: RoutingRequest,
    instance: Instance,
    answer: PredictResponse | None,
    tokens_per_block: float,
    last_state_max_age_s: float | None,
    now_s: float,
) -> Candidate:
    traffic, digests = instance.traffic, request.prefix_digests
    load = answer.load if answer is not None else None
    if load is None and last_state_max_age_s is not None:
        load = traffic.last_known_load(now_s, last_state_max_age_s)
    return Candidate(
        name=instance.name,
        outstanding=traffic.outstanding,
        prediction=None if answer is None else answer.prediction,
        load=load,
        spread=None if answer is None else answer.spread,
        outstanding_tokens=traffic.outstanding_tokens,
        sent_last_minute=traffic.sent_last_minute(now_s),
        cached_tokens=int(traffic.prefixes.matched_blocks(digests) * tokens_per_block) if digests else 0,
    )

"""Requests for an instance whose predictor is away while others answer, or that has none.

Policies rank those of whom there is no answer last, so that an engine that is well would get nothing for as
long as the side-car beside it is missing. It gets what would be its share by chance, and no more than the
others have on average.
"""

from __future__ import annotations

from collections.abc import Sequence

from global_scheduler.fleet import Instance
from global_scheduler.policies.base import Candidate, Choice, RoutingRequest

SILENT_S = 1.0
"""Without any answer, after which a predictor is taken to be away rather than late."""


def with_fair_share(
    choice: Choice,
    request: RoutingRequest,
    instances: Sequence[Instance],
    candidates: Sequence[Candidate],
    now_s: float,
) -> Choice | None:
    """The request's choice if it falls to such an instance; None if ``choice`` stands.

    ``instances`` and ``candidates``: the same, in the same order; ``now_s``: of ``time.monotonic``.
    """
    silent = [one.predictor is None or one.traffic.unheard_s(now_s) > SILENT_S for one in instances]
    place = request.dice().randrange(len(candidates))
    if not silent[place]:
        return None
    drawn = candidates[place]
    others = [one.outstanding for one, away in zip(candidates, silent, strict=True) if not away]
    if not others or drawn.outstanding * len(others) > sum(others) or drawn.name == choice.instance:
        return None
    order = (choice.instance, *(name for name in choice.ranking if name != drawn.name))
    return Choice(drawn.name, order, "fair_share")

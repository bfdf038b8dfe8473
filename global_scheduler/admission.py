"""Admission control: refuses what is predicted to miss its objectives wherever it goes.

Off unless configured. Without predictions nothing is refused: not knowing is no ground.
"""

from __future__ import annotations

from collections.abc import Sequence

from block.errors import RequestError
from global_scheduler.policies.base import Candidate, RoutingRequest
from global_scheduler.policies.slo import has_slo, miss


def check_admission(request: RoutingRequest, candidates: Sequence[Candidate], max_miss: float) -> None:
    """Raise RequestError (429) if every candidate with a prediction misses more likely than ``max_miss``.

    ``Retry-After`` is how late the request would be, on the mean, where it would be least late.
    """
    if not has_slo(request):
        return
    misses = [miss(request, candidate) for candidate in candidates if candidate.prediction is not None]
    if not misses or min(probability for probability, _ in misses) <= max_miss:
        return
    probability, excess_s = min(misses)
    raise RequestError(
        f"no instance is likely to meet the objectives of this request: the best would miss them with "
        f"probability {probability:.2f}",
        status=429,
        code="slo_unattainable",
        retry_after_s=excess_s,
    )

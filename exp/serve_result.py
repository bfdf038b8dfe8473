"""The result of ``block-exp bench serve``, under the field names of ``vllm bench serve``.

Times are milliseconds in summaries and seconds in lists, as there. What that program does not have (the
router's own cost, predictions, the client's pace) stands beside it under names of its own. As there, ITL is
between messages, TPOT per token after the first, and a request that failed counts in no measure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exp.client import LoadRun
from exp.outcome import Outcome

Floats = npt.NDArray[np.float64]

MEASURES: Mapping[str, Callable[[Outcome], Sequence[float | None]]] = {
    "ttft": lambda outcome: (outcome.ttft_s,),
    "tpot": lambda outcome: (outcome.tpot_s,),
    "itl": lambda outcome: outcome.itl_s,
    "e2el": lambda outcome: (outcome.e2e_s,),
    "scheduling_overhead": lambda outcome: (outcome.decision_s,),
}
"""Name -> an outcome's values in seconds; None where there is none."""


@dataclass(frozen=True, slots=True)
class Goodput:
    """A request is good if each of these holds; in milliseconds. None does not count."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2el_ms: float | None = None

    @property
    def asked(self) -> bool:
        """Whether anything counts."""
        return (self.ttft_ms, self.tpot_ms, self.e2el_ms) != (None, None, None)

    def met(self, outcome: Outcome) -> bool:
        """A response of one token has a TPOT of 0."""
        pairs = (
            (self.ttft_ms, outcome.ttft_s),
            (self.tpot_ms, outcome.tpot_s or 0.0),
            (self.e2el_ms, outcome.e2e_s),
        )
        return not outcome.error and all(
            limit is None or (value is not None and value * 1e3 <= limit) for limit, value in pairs
        )


def summary(run: LoadRun, goodput: Goodput, percentiles: Sequence[float]) -> dict[str, Any]:
    """Everything but the lists per request."""
    good = [outcome for outcome in run.outcomes if not outcome.error]
    inputs, outputs = _sum(o.prompt_tokens for o in good), _sum(o.output_tokens for o in good)
    most_tokens, most_requests = _peaks(good)
    return {
        "duration": run.wall_s,
        "completed": len(good),
        "failed": len(run.outcomes) - len(good),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(good) / run.wall_s,
        "request_goodput": sum(map(goodput.met, good)) / run.wall_s if goodput.asked else None,
        "output_throughput": outputs / run.wall_s,
        "total_token_throughput": (inputs + outputs) / run.wall_s,
        "max_output_tokens_per_s": most_tokens,
        "max_concurrent_requests": most_requests,
        **{
            name: value
            for measure, read in MEASURES.items()
            for name, value in _statistics(measure, read, good, percentiles).items()
        },
        "fallbacks": sum(outcome.fallback is not None for outcome in good),
        "requests_per_instance": dict(sorted(Counter(o.instance for o in good if o.instance).items())),
        "median_e2el_prediction_error": _prediction_error(good),
        "client_lateness_p99_ms": run.pace.lateness_p99_s * 1e3,
        "client_lateness_max_ms": run.pace.lateness_max_s * 1e3,
        "client_loop_lag_p99_ms": run.pace.lag_p99_s * 1e3,
        "client_cpu_share": run.pace.cpu_share,
    }


def details(run: LoadRun) -> dict[str, list[Any]]:
    """Lists with an entry per request, in the order in which they were sent."""
    return {
        "input_lens": [o.prompt_tokens or o.request.prompt_tokens for o in run.outcomes],
        "output_lens": [0 if o.error else o.output_tokens for o in run.outcomes],
        "ttfts": [0.0 if o.error else o.ttft_s for o in run.outcomes],
        "itls": [[] if o.error else list(o.itl_s) for o in run.outcomes],
        "latencies": [0.0 if o.error else o.e2e_s for o in run.outcomes],
        "start_times": [run.start_s + o.sent_s for o in run.outcomes],
        "queue_times": [max(0.0, o.lateness_s) for o in run.outcomes],
        "errors": [o.error for o in run.outcomes],
        "scheduling_overheads": [o.decision_s for o in run.outcomes],
        "instances": [o.instance for o in run.outcomes],
        "predicted_ttfts": [o.predicted_ttft_s for o in run.outcomes],
        "predicted_latencies": [o.predicted_e2e_s for o in run.outcomes],
    }


def _statistics(
    measure: str,
    read: Callable[[Outcome], Sequence[float | None]],
    good: Iterable[Outcome],
    percentiles: Sequence[float],
) -> dict[str, float]:
    """Nothing for a measure that no request had."""
    values = np.array([value for outcome in good for value in read(outcome) if value is not None]) * 1e3
    if not len(values):
        return {}
    return {
        f"mean_{measure}_ms": float(values.mean()),
        f"median_{measure}_ms": float(np.median(values)),
        f"std_{measure}_ms": float(values.std()),
        **{f"p{share:g}_{measure}_ms": float(np.percentile(values, share)) for share in percentiles},
    }


def _peaks(good: Sequence[Outcome]) -> tuple[float, int]:
    """Most tokens in one of the run's seconds, and most requests that were under way in one."""
    if not good:
        return 0.0, 0
    first_s = min(outcome.sent_s for outcome in good)
    tokens = Counter(int(o.sent_s + at_s - first_s) for o in good for at_s in o.token_s)
    busy = Counter(
        second
        for o in good
        for second in range(int(o.sent_s - first_s), int(o.sent_s + (o.e2e_s or 0.0) - first_s) + 1)
    )
    return float(max(tokens.values())), max(busy.values())


def _prediction_error(good: Iterable[Outcome]) -> float | None:
    errors = [
        abs(outcome.predicted_e2e_s - outcome.e2e_s) / outcome.e2e_s
        for outcome in good
        if outcome.predicted_e2e_s is not None and outcome.e2e_s
    ]
    return float(np.median(errors)) if errors else None


def _sum(counts: Iterable[int | None]) -> int:
    return sum(count or 0 for count in counts)

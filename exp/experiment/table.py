"""What became of a cell's requests, as a table: one row each, in the order of their arrival."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from exp.outcome import Outcome

SCHEMA = pa.schema(
    [
        ("arrival_s", pa.float64()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("instance", pa.string()),
        ("ttft_s", pa.float64()),
        ("e2e_s", pa.float64()),
        ("predicted_ttft_s", pa.float64()),
        ("predicted_e2e_s", pa.float64()),
        ("decision_s", pa.float64()),
        ("preemptions", pa.int32()),
        ("hit_tokens", pa.int32()),
        ("rank", pa.int32()),
        ("error", pa.string()),
    ]
)
"""Times in seconds from the arrival; null where nothing was measured. ``rank``: 1 if truly the best instance
was chosen. ``hit_tokens``: of the prompt, found in the prefix cache. ``error`` is empty for a request that
was answered whole."""


def outcome_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """From what a load client saw. Preemptions and ranks are not seen from outside."""
    rows = [
        {
            "arrival_s": outcome.request.arrival_s,
            "prompt_tokens": outcome.request.prompt_tokens,
            "output_tokens": outcome.request.output_tokens,
            "instance": outcome.instance,
            "ttft_s": None if outcome.error else outcome.ttft_s,
            "e2e_s": outcome.e2e_s,
            "predicted_ttft_s": outcome.predicted_ttft_s,
            "predicted_e2e_s": outcome.predicted_e2e_s,
            "decision_s": outcome.decision_s,
            "error": outcome.error,
        }
        for outcome in outcomes
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)

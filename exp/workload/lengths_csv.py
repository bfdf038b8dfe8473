"""Lengths in a CSV file, perhaps with arrival times: one's own trace, Vidur's processed ones."""

from __future__ import annotations

from pathlib import Path

from exp.workload.request import TraceRequest
from exp.workload.spec import WorkloadSpec
from exp.workload.trace import Trace
from exp.workload.trace_file import Csv

PROMPT = ("prompt_tokens", "num_prefill_tokens")
OUTPUT = ("output_tokens", "num_decode_tokens")
ARRIVAL = ("arrival_s", "arrived_at")
"""Names that the columns may have."""


def read_lengths(path: Path, _: WorkloadSpec) -> Trace:
    """Raises ConfigError that names file, line, field and remedy."""
    table = Csv.open(path)
    prompt, output, arrival = table.column(*PROMPT), table.column(*OUTPUT), table.optional(*ARRIVAL)
    requests = [
        TraceRequest(
            row.seconds(arrival) if arrival else 0.0,
            row.tokens(prompt),
            row.tokens(output),
        )
        for row in table.rows()
    ]
    return Trace(path, requests, timed=arrival is not None)

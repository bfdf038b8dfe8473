"""BurstGPT: requests to ChatGPT and GPT-4 in a campus over months; times and lengths, no text.

github.com/HPMLL/BurstGPT, arXiv 2401.17644. A response of 0 tokens is a failed request; it is left out, as
everything is that has no prompt or no response.
"""

from __future__ import annotations

from pathlib import Path

from exp.workload.request import TraceRequest
from exp.workload.spec import WorkloadSpec
from exp.workload.trace import Trace
from exp.workload.trace_file import Csv


def read_burstgpt(path: Path, _: WorkloadSpec) -> Trace:
    """Raises ConfigError that names file, line, field and remedy."""
    table = Csv.open(path)
    time, prompt, output = (table.column(name) for name in ("Timestamp", "Request tokens", "Response tokens"))
    requests = [
        TraceRequest(row.seconds(time), row.tokens(prompt), row.tokens(output)) for row in table.rows()
    ]
    return Trace(path, requests, timed=True)

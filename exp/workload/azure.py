"""Azure's LLM inference traces of 2023 (conversation, code) and 2024: times and lengths, no text.

github.com/Azure/AzurePublicDataset; Patel et al., "Splitwise", ISCA 2024.
"""

from __future__ import annotations

from pathlib import Path

from exp.workload.request import TraceRequest
from exp.workload.spec import WorkloadSpec
from exp.workload.trace import Trace
from exp.workload.trace_file import Csv


def read_azure(path: Path, _: WorkloadSpec) -> Trace:
    """Raises ConfigError that names file, line, field and remedy."""
    table = Csv.open(path)
    time, prompt, output = (table.column(name) for name in ("TIMESTAMP", "ContextTokens", "GeneratedTokens"))
    requests = [
        TraceRequest(row.moment_s(time), row.tokens(prompt), row.tokens(output)) for row in table.rows()
    ]
    return Trace(path, requests, timed=True)

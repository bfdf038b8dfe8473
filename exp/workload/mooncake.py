"""Mooncake's traces (Kimi): times, lengths, and which blocks of 512 prompt tokens are the same.

github.com/kvcache-ai/Mooncake, FAST'25.
"""

from __future__ import annotations

from pathlib import Path

from exp.workload.request import HASH_TOKENS, TraceRequest
from exp.workload.spec import WorkloadSpec
from exp.workload.trace import Trace
from exp.workload.trace_file import Row, json_lines


def read_mooncake(path: Path, _: WorkloadSpec) -> Trace:
    """Raises ConfigError that names file, line, field and remedy."""
    requests = [_request(row) for row in json_lines(path)]
    return Trace(path, requests, timed=True)


def _request(row: Row) -> TraceRequest:
    prompt, hashes = row.tokens("input_length"), row.integers("hash_ids")
    if len(hashes) > -(-prompt // HASH_TOKENS):
        raise row.wrong("hash_ids", f"more entries than blocks of {HASH_TOKENS} in {prompt} tokens")
    return TraceRequest(row.seconds("timestamp") / 1e3, prompt, row.tokens("output_length"), hashes)

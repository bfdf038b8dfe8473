"""Workloads: when requests arrive, how long prompts and responses are, and what they share.

From recorded traces where there are any, else from generators fitted to published statistics. Seeded: the
same arguments give the same workload. Knows nothing of models or servers.
"""

from __future__ import annotations

from exp.workload.catalogue import GENERATORS, SOURCES, load_workload, recorded_trace, trace_file
from exp.workload.generated import generated
from exp.workload.request import HASH_TOKENS, TraceRequest, Workload
from exp.workload.spec import WorkloadSpec

__all__ = [
    "GENERATORS",
    "HASH_TOKENS",
    "SOURCES",
    "TraceRequest",
    "Workload",
    "WorkloadSpec",
    "generated",
    "load_workload",
    "recorded_trace",
    "trace_file",
]

"""What a predictor loads and does up to its first answer; timed from outside by ``block-exp bench``.

Run: ``python -m exp.first_answer``; prints the answer and the process's memory as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path

import psutil

import predictor.app  # noqa: F401 (what the service loads)
from block.latency.table import TableLatency
from block.simulation.columns import EngineColumns
from block.simulation.what_if import Newcomer, WhatIf, warm_up
from exp.bench_state import NEWCOMER, BenchState

LATENCY = Path(__file__).resolve().parent.parent / "config" / "latency" / "a30-llama-2-7b.yaml"


def main() -> None:
    """Answer one what-if."""
    model = TableLatency.load(LATENCY)
    warm_up(model)
    what_if = WhatIf(EngineColumns.of(BenchState(50, 50, 300).build()), model)
    answer, _ = what_if.ask(Newcomer.certain(NEWCOMER))
    print(json.dumps({"e2e_s": answer.e2e_s, "rss_mb": psutil.Process().memory_info().rss / 2**20}))


if __name__ == "__main__":
    main()

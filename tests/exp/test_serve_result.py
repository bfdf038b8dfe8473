"""Figures of a load by hand, the files they go into, and the field names of vLLM's own program."""

from __future__ import annotations

import csv
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from block.errors import ConfigError
from exp.bench_serve import parse_goodput
from exp.client import LoadRun
from exp.outcome import Outcome
from exp.own_pace import OwnPace
from exp.serve_files import check_form, write_result
from exp.serve_result import Goodput, details, summary
from exp.workload import TraceRequest

REQUEST = TraceRequest(0.0, 10, 3)


def good(sent_s: float, *token_s: float, decision_s: float | None = 0.002) -> Outcome:
    return Outcome(
        REQUEST,
        "",
        sent_s=sent_s,
        ttft_s=token_s[0],
        e2e_s=token_s[-1],
        prompt_tokens=12,
        output_tokens=len(token_s),
        token_s=token_s,
        itl_s=tuple(np.diff(token_s)),
        instance="instance-0",
        decision_s=decision_s,
        predicted_e2e_s=token_s[-1] * 1.1,
    )


RUN = LoadRun(
    (good(0.0, 1.0, 1.5, 2.0), good(0.5, 2.0, 2.2, 2.4), Outcome(REQUEST, "", error="gone")),
    100.0,
    4.0,
    OwnPace(),
)


def test_figures_are_those_of_the_good_requests() -> None:
    result = summary(RUN, Goodput(ttft_ms=1500.0), (50, 99.9))
    assert (result["completed"], result["failed"]) == (2, 1)
    assert (result["total_input_tokens"], result["total_output_tokens"]) == (24, 6)
    assert (result["request_throughput"], result["request_goodput"]) == (0.5, 0.25)
    assert result["output_throughput"] == 1.5
    assert result["mean_ttft_ms"] == 1500.0
    assert result["mean_tpot_ms"] == pytest.approx(350.0)
    assert result["p50_itl_ms"] == pytest.approx(350.0)
    assert result["mean_e2el_ms"] == pytest.approx(2200.0)
    assert result["p99.9_ttft_ms"] == pytest.approx(1999.0)
    assert result["mean_scheduling_overhead_ms"] == 2.0
    assert result["max_output_tokens_per_s"] == 4.0
    assert result["max_concurrent_requests"] == 2
    assert result["median_e2el_prediction_error"] == pytest.approx(0.1)
    assert result["requests_per_instance"] == {"instance-0": 2}


def test_measures_that_nothing_had_are_left_out() -> None:
    nothing = LoadRun((Outcome(REQUEST, "", error="gone"),), 0.0, 1.0, OwnPace())
    result = summary(nothing, Goodput(), (50,))
    assert (result["completed"], result["request_goodput"]) == (0, None)
    assert "mean_ttft_ms" not in result


@pytest.mark.parametrize(
    ("limits", "met"),
    [
        (Goodput(), True),
        (Goodput(ttft_ms=999.0), False),
        (Goodput(tpot_ms=500.0, e2el_ms=2000.0), True),
        (Goodput(tpot_ms=499.0), False),
    ],
)
def test_a_request_is_good_if_all_limits_hold(limits: Goodput, met: bool) -> None:
    assert limits.met(RUN.outcomes[0]) is met
    assert not limits.met(RUN.outcomes[2])


def test_vllms_own_fields_are_all_there() -> None:
    """Read out of the installed program: what it puts into a generation's result, but texts and audio."""
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = (Path(spec.submodule_search_locations[0]) / "benchmarks/serve.py").read_text()
    block = re.search(
        r"isinstance\(metrics, BenchmarkMetrics\):\s+result = \{(.*?)\n        \}", source, re.DOTALL
    )
    assert block is not None
    theirs = set(re.findall(r'^\s+"(\w+)":', block[1], re.MULTILINE)) - {"generated_texts", "rtfx"}
    ours: dict[str, Any] = {**summary(RUN, Goodput(), (99,)), **details(RUN)}
    assert len(theirs) > 15
    assert theirs <= set(ours)
    measures = set(re.findall(r'process_one_metric\(\s*"(\w+)"', source)) - {"client_queue_time"}
    named = {measure for measure in measures if f"mean_{measure}_ms" in ours}
    assert {"ttft", "tpot", "itl", "e2el"} <= named


def test_each_form_has_every_request(tmp_path: Path) -> None:
    result, lists = summary(RUN, Goodput(), (99,)), details(RUN)
    for suffix in ("json", "csv", "npz"):
        write_result(tmp_path / f"r.{suffix}", result, lists, detailed=True)
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["ttfts"] == [1.0, 2.0, 0.0]
    assert written["errors"] == ["", "", "gone"]
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["latencies"]) for row in rows] == [2.0, 2.4, 0.0]
    with np.load(tmp_path / "r.npz") as arrays:
        first, second = arrays["itl_offsets"][:2]
        assert arrays["itls"][first:second].tolist() == [0.5, 0.5]
        assert json.loads(str(arrays["summary"]))["completed"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.csv", "r.json", "r.npz"]


def test_unknown_forms_and_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must end in \.json, \.csv, \.npz"):
        check_form(Path("r.txt"))
    assert parse_goodput(["ttft:3000", "e2el:10"]) == Goodput(ttft_ms=3000.0, e2el_ms=10.0)
    for pair in ("ttft", "itl:3", "ttft:x"):
        with pytest.raises(ConfigError, match="must be ttft:MS"):
            parse_goodput([pair])

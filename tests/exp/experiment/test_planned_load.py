"""What a fleet is planned for: a trace's own rate and length, and seeds that take other stretches of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from block.errors import ConfigError
from exp.experiment.cell import Traffic
from exp.experiment.planned_load import PlannedLoad

NOWHERE = Path("nowhere")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "my.csv"
    lines = [f"{100 + index},50,{0.25 * index}" for index in range(41)]
    path.write_text("\n".join(["prompt_tokens,output_tokens,arrival_s", *lines, "9000,50,999"]))
    return path


def planned(trace: Path, requests: int | None = None, rate: float | None = None) -> PlannedLoad:
    return PlannedLoad.of(Traffic(name=str(trace), most_tokens=4000), requests, rate, NOWHERE)


def test_a_trace_is_taken_whole_at_its_own_rate(trace: Path) -> None:
    found = planned(trace)
    assert (found.requests, found.rate_per_s, found.repeated) == (41, pytest.approx(4.0), True)


def test_seeds_take_stretches_of_a_longer_trace(trace: Path) -> None:
    found = planned(trace, requests=20, rate=9.0)
    assert (found.requests, found.rate_per_s, found.repeated) == (20, 9.0, False)
    assert found.traffic.in_order


def test_without_a_trace_arrivals_are_drawn(trace: Path) -> None:
    drawn = PlannedLoad.of(Traffic(name="generated"), None, None, NOWHERE)
    assert (drawn.requests, drawn.rate_per_s, drawn.repeated) == (2000, 20.0, False)
    trace.write_text("prompt_tokens,output_tokens\n10,5\n20,5\n30,5\n")
    untimed = planned(trace)
    assert (untimed.requests, untimed.rate_per_s, untimed.repeated) == (3, 20.0, False)


def test_a_trace_that_does_not_fit_says_so(trace: Path) -> None:
    trace.write_text("prompt_tokens,output_tokens\n9000,5\n")
    with pytest.raises(ConfigError, match="has 0 requests of at most 4000 tokens; raise --max-model-len"):
        planned(trace)

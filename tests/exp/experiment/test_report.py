"""From cells to figures by hand: curves that double have their capacity where it must be."""

from __future__ import annotations

import json
import math
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from toy_backend import ToyBackend

from block.errors import ConfigError
from exp.experiment.backend import Surroundings
from exp.experiment.capacity_curve import crossing
from exp.experiment.report import Report, capacity_table
from exp.experiment.run_folder import RunFolder
from exp.experiment.runner import Runner
from exp.experiment.spec import ExperimentSpec, PolicyVariant
from exp.experiment.summary import Interval

SPEC = ExperimentSpec(
    title="test",
    requests=4,
    policies={"block": PolicyVariant(), "random": PolicyVariant()},
    rates_per_s=(2.0, 4.0, 6.0, 8.0),
    seeds=(0, 1, 2),
    slo_ttft_s=(0.7, 100.0),
    published_qps={"default/sharegpt/0.7s": {"block": "5.5"}},
    figures=("load", "capacity", "prediction", "heat_map"),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def report(out: Path) -> Report:
    folder = RunFolder(out)
    folder.open(SPEC, "toy")
    around = Surroundings(Path("nowhere"), scratch=out)
    Runner(ToyBackend, around, 1, Console(quiet=True)).run(SPEC.cells(), folder)
    return Report.make(folder, SPEC)


def test_capacities_lie_between_the_rates_with_an_interval(report: Report) -> None:
    found = report.capacities()["default", "sharegpt", 0.7]["block"]
    # TTFT is 0.1 * 2 ** (rate / 2) s and a tenth longer per seed: it doubles with every 2 requests/s.
    expected = [2 * math.log2(7 / factor) for factor in (1.0, 1.1, 1.2)]
    assert found.rate_per_s.mean == pytest.approx(sum(expected) / 3)
    assert 0 < found.rate_per_s.half < 1
    assert found.bound == ""
    result = json.loads(json.dumps(report.json(Path("out"))))
    assert result["capacity_qps"]["block"] == pytest.approx(sum(expected) / 3, abs=1e-3)
    assert report.capacities()["default", "sharegpt", 100.0]["block"].bound == ">="
    assert (result["cells"], result["missing"], result["failed"]) == (24, 0, 0)


def test_figures_are_drawn_as_png_and_svg_and_the_table_is_shown(report: Report, out: Path) -> None:
    names = {file.name for file in report.figures}
    assert {
        "load-default-sharegpt.png",
        "load-default-sharegpt.svg",
        "capacity.png",
        "heat-map-default.svg",
    } <= names
    assert all(file.stat().st_size > 5000 for file in report.figures)
    shown = StringIO()
    Console(width=150, file=shown).print(capacity_table(report))
    assert "(paper: 5.5)" in shown.getvalue()
    lines = (out / "summary.csv").read_text().splitlines()
    assert len(lines) == 25
    row = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert float(row["ttft_p99_s"]) == pytest.approx(0.2)
    assert float(row["tpot_mean_s"]) == pytest.approx(0.1)
    assert float(row["prediction_error"]) == pytest.approx(0.2)
    assert row["best_share"] == "nan"


def test_an_unknown_figure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown; known here: load"):
        Report.make(RunFolder(tmp_path), SPEC.model_copy(update={"figures": ("pie",)}))


@pytest.mark.parametrize(
    ("curve", "slo", "found"),
    [
        ([(1.0, 1.0), (3.0, 4.0)], 2.0, (2.0, "")),
        ([(1.0, 1.0), (3.0, 4.0)], 4.0, (3.0, ">=")),
        ([(1.0, 5.0), (3.0, 9.0)], 2.0, (1.0, "<=")),
        ([(3.0, 4.0), (1.0, 1.0), (4.0, 1.0)], 2.0, (2.0, "")),
        ([(1.0, 1.0), (2.0, math.nan), (3.0, 4.0)], 2.0, (2.0, "")),
    ],
)
def test_a_curve_crosses_its_slo_where_its_logarithm_does(
    curve: list[tuple[float, float]], slo: float, found: tuple[float, str]
) -> None:
    rate, bound = crossing(curve, slo)
    assert (rate, bound) == (pytest.approx(found[0]), found[1])


def test_an_interval_is_students() -> None:
    interval = Interval.of([1.0, 2.0, 3.0, math.nan])
    assert interval.mean == 2.0
    assert interval.half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert math.isnan(Interval.of([1.0]).half)

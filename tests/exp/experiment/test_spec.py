"""What a spec's matrix is, what is refused, and that the specs that are shipped can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from block.errors import ConfigError
from exp.experiment.report import FIGURES
from exp.experiment.spec import ExperimentSpec, Quick

SHIPPED = sorted((Path(__file__).resolve().parents[3] / "config" / "exp").glob("*.yaml"))

TEXT = """
title: test
requests: 100
set: {instances: 12}
policies:
  random: {}
  block-4: {set: {scheduler.policy: block, scheduler.scenarios: 4}, lengths: guess}
engines:
  small: {set: {engine.max_num_seqs: 24}}
  large: {}
rates_per_s: [30.0, 20.0]
seeds: [0, 1]
quick: {requests: 10, seeds: [7]}
"""


def load(tmp_path: Path, text: str) -> ExperimentSpec:
    (tmp_path / "spec.yaml").write_text(text)
    return ExperimentSpec.load(tmp_path / "spec.yaml")


def test_every_policy_meets_everything_else(tmp_path: Path) -> None:
    cells = list(load(tmp_path, TEXT).cells())
    assert len(cells) == len({cell.id for cell in cells}) == len({cell.digest for cell in cells}) == 16
    assert [cell.rate_per_s for cell in cells[:8]] == [20.0] * 4 + [30.0] * 4
    one = next(cell for cell in cells if cell.id == "block-4+small+sharegpt+30+1")
    assert (one.cluster.instances, one.cluster.engine.max_num_seqs) == (12, 24)
    assert (one.cluster.scheduler.policy, one.cluster.scheduler.scenarios, one.lengths) == (
        "block",
        4,
        "guess",
    )
    other = next(cell for cell in cells if cell.id == "random+large+sharegpt+20+0")
    assert (other.cluster.scheduler.policy, other.cluster.engine.max_num_seqs) == ("random", 48)


def test_all_policies_get_the_same_requests(tmp_path: Path) -> None:
    cells = [cell for cell in load(tmp_path, TEXT).cells() if (cell.rate_per_s, cell.seed) == (20.0, 0)]
    assert len({cell.arrivals(Path("nowhere")) for cell in cells}) == 1


def test_quick_is_smaller(tmp_path: Path) -> None:
    quick = load(tmp_path, TEXT).quickened()
    assert (quick.requests, quick.seeds, quick.rates_per_s) == (10, (7,), (30.0, 20.0))


def test_a_run_may_be_of_fewer_requests_and_seeds(tmp_path: Path) -> None:
    spec = load(tmp_path, TEXT)
    assert spec.sized(None, None) == spec
    assert (spec.sized(33, 1).requests, spec.sized(33, 1).seeds) == (33, (0,))
    with pytest.raises(ConfigError, match="--seeds 3: the spec has 2"):
        spec.sized(None, 3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("rates_per_s: [0]", r"spec.yaml: rates_per_s.0 = 0"),
        ("rate: [1]", r"rate: unknown setting; known here: title"),
        ("policies: {}", "policies"),
    ],
)
def test_a_wrong_spec_is_told_by_field(tmp_path: Path, wrong: str, said: str) -> None:
    name = wrong.partition(":")[0]
    lines = "title: t\npolicies: {random: {}}\nrates_per_s: [1.0]".splitlines()
    kept = [line for line in lines if not line.startswith(f"{name}:")]
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, "\n".join([*kept, wrong]))


def test_a_setting_that_no_cluster_has_is_told_with_its_policy(tmp_path: Path) -> None:
    text = "title: t\npolicies: {random: {set: {engine.seats: 3}}}\nrates_per_s: [1.0]"
    with pytest.raises(ConfigError, match=r"policy random, engine default: .*engine.seats: unknown setting"):
        list(load(tmp_path, text).cells())


POOLS = """
title: t
policies: {random: {}}
rates_per_s: [1.0]
engines:
  mixed:
    set: {engine.max_num_batched_tokens: 256}
    pools:
      slow: {instances: 3}
      fast: {instances: 2, set: {engine.max_num_seqs: 64, engine.num_gpu_blocks: 5000}}
"""


def test_a_cluster_may_be_made_of_pools(tmp_path: Path) -> None:
    [cell] = load(tmp_path, POOLS).cells()
    assert cell.cluster.instances == 5
    engines = [(kind.instances, kind.engine.max_num_seqs, kind.engine.num_gpu_blocks) for kind in cell.kinds]
    assert engines == [(3, 48, 1053), (2, 64, 5000)]
    assert {kind.engine.max_num_batched_tokens for kind in cell.kinds} == {256}


def test_a_cell_of_other_pools_is_another_cell(tmp_path: Path) -> None:
    [cell] = load(tmp_path, POOLS).cells()
    [other] = load(tmp_path, POOLS.replace("5000", "5001")).cells()
    assert (cell.id, cell.cluster) == (other.id, other.cluster)
    assert cell.content != other.content


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ("{instances: 2, set: {scheduler.policy: block}}", r"scheduler.policy: belongs to the whole cluster"),
        ("{instances: 2, set: {engine.seats: 3}}", r"engine mixed, pool fast: .*engine.seats: unknown"),
        ("{instances: 0}", r"pools.fast.instances = 0"),
        ("{instances: 64}", r"instances = 67"),
    ],
)
def test_a_wrong_pool_is_told_by_name(tmp_path: Path, pool: str, said: str) -> None:
    lines = [line for line in POOLS.splitlines() if "fast" not in line]
    with pytest.raises(ConfigError, match=said):
        list(load(tmp_path, "\n".join([*lines, f"      fast: {pool}"])).cells())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_specs_make_cells_and_quick_ones_are_fewer(path: Path) -> None:
    spec = ExperimentSpec.load(path)
    assert set(spec.figures) <= set(FIGURES)
    cells = list(spec.cells())
    quick = list(spec.quickened().cells())
    assert 0 < len(quick) <= len(cells)
    assert sum(cell.requests for cell in quick) < sum(cell.requests for cell in cells) / 10


def test_there_are_shipped_specs() -> None:
    assert "main" in {path.stem for path in SHIPPED}


def test_engines_may_have_rates_of_their_own_which_quick_ones_take_over(tmp_path: Path) -> None:
    spec = load(tmp_path, TEXT.replace("small: {set:", "small: {rates_per_s: [12.0, 10.0], set:"))
    met = {(cell.engine, cell.rate_per_s) for cell in spec.cells()}
    assert met == {("small", 10.0), ("small", 12.0), ("large", 20.0), ("large", 30.0)}
    quicker = spec.model_copy(update={"quick": Quick(rates_per_s=(15.0,))}).quickened()
    assert {(cell.engine, cell.rate_per_s) for cell in quicker.cells()} == {("small", 15.0), ("large", 15.0)}

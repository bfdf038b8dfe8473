"""``block-exp latency replay``: recorded steps against what the calibration foresaw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from known_latency import KnownLatency
from packs import TRUTH, traffic_pack

from block.errors import PackError
from block.latency.base import KernelLatency
from block.latency.pack import COLUMNS, StepPack, load_pack, save_pack
from exp.cli import main
from exp.latency_replay import HORIZONS, LatencyReplay

BASE = Path(__file__).parents[2] / "config/latency/a30-llama-2-7b.yaml"
HOST_S = 0.001


@pytest.fixture(scope="module")
def pack() -> StepPack:
    return traffic_pack(noise=0.0, host_s=HOST_S)


def _cadence_truth() -> KernelLatency:
    """The truth with the engine's own time per step."""
    return replace(TRUTH, token_seconds=tuple(seconds + HOST_S for seconds in TRUTH.token_seconds))


def test_who_knows_the_truth_errs_by_nothing(pack: StepPack) -> None:
    summary = LatencyReplay(pack, KnownLatency(_cadence_truth()), 0).run().summary()
    for horizon in HORIZONS:
        assert summary["base"][str(horizon)]["p90"] < 1e-6


def test_a_wrong_base_heals_and_is_judged_as_wrong_as_it_is(pack: StepPack) -> None:
    summary = LatencyReplay(pack, KnownLatency(_cadence_truth().scaled(2.0)), 1000).run().summary()
    for horizon in HORIZONS:
        assert summary["base"][str(horizon)]["bias"] == pytest.approx(1.0, abs=1e-3)
        assert summary["calibrated"][str(horizon)]["median"] < 0.02


def test_steps_are_not_judged_across_a_hole_or_a_wait(pack: StepPack) -> None:
    whole = LatencyReplay(pack, KnownLatency(TRUTH), 0).run().summary()["base"]["20"]["judged"]
    kept = [number % 15 != 0 for number in range(len(pack))]
    holed = StepPack(pack.header, **{name: getattr(pack, name)[kept] for name in COLUMNS})
    judged = LatencyReplay(holed, KnownLatency(TRUTH), 0).run().summary()
    assert judged["base"]["20"] is None
    assert judged["base"]["1"]["judged"] > whole / 2


def test_a_recording_shorter_than_the_warm_up_is_refused(pack: StepPack) -> None:
    with pytest.raises(PackError, match=r"none to judge after a warm-up of 1000000; lower --warm-up"):
        LatencyReplay(pack, KnownLatency(TRUTH), 1_000_000).run()


def test_a_modelled_pack_is_refused() -> None:
    modelled = load_pack(Path(__file__).parents[2] / "config/packs/a30-llama-2-7b.npz")
    with pytest.raises(PackError, match="modelled pack; give a recorded one"):
        LatencyReplay(modelled, KnownLatency(TRUTH), 0).run()


def test_the_command_prints_a_table_and_a_last_line_of_json(
    pack: StepPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_pack(tmp_path / "engine.npz", pack)
    with pytest.raises(SystemExit) as caught:
        main(["latency", "replay", str(tmp_path / "engine.npz"), "--base", str(BASE)])
    assert not caught.value.code
    *table, last = capsys.readouterr().out.splitlines()
    assert any("corrected while serving" in line for line in table)
    summary = json.loads(last)
    assert summary["steps"] == len(pack)
    assert summary["calibrated"]["1"]["median"] < summary["base"]["1"]["median"]

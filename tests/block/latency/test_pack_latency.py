"""A pack as a latency model: named or given itself, with the engine's own time where it does not overlap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from packs import HEADER, TRUTH, traffic_pack

from block.errors import ConfigError, PackError
from block.latency.load import load_latency
from block.latency.pack import save_pack
from block.types import BatchShape

SHAPE = BatchShape(0, 10, 4000, 0, 10)


@pytest.mark.parametrize(("overlap", "extra_s"), [(False, 0.003), (True, 0.0)])
def test_host_time_counts_where_it_does_not_overlap(tmp_path: Path, overlap: bool, extra_s: float) -> None:
    header = replace(HEADER, limits=replace(HEADER.limits, async_scheduling=overlap))
    save_pack(tmp_path / "engine.npz", traffic_pack(header=header, host_s=0.003))
    (tmp_path / "named.yaml").write_text("kind: pack\npack: engine.npz\n")
    for name in ("engine.npz", "named.yaml"):
        latency = load_latency(tmp_path / name)
        assert latency.version == "engine"
        assert latency.seconds(SHAPE) == pytest.approx(TRUTH.seconds(SHAPE) + extra_s, rel=0.01)
        assert latency.kernel.seconds(SHAPE) == latency.seconds(SHAPE)
        assert latency.covers(SHAPE)
        assert not latency.covers(BatchShape(4096, 0, 4096, 0, 1))


def test_all_steps_together_take_as_long_as_they_did(tmp_path: Path) -> None:
    pack = traffic_pack(host_s=0.0, pauses=0.01)
    save_pack(tmp_path / "engine.npz", pack)
    latency = load_latency(tmp_path / "engine.npz")
    modelled = sum(latency.seconds(shape) for shape in pack.shapes())
    assert modelled == pytest.approx(pack.duration_s.sum(), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "data", "named"),
    [
        ("cut.npz", b"\x03\x04", r"cut\.npz: is no pack: begins with"),
        (
            "e.journal",
            b"H\xee\x02\0\0{}",
            "a recording's journal; make a pack of it with `block-exp pack from",
        ),
        ("a40.json", b' {"version": "2.0", "decode_2d_distribution": []}', "`block-exp pack import-llm-emu`"),
    ],
)
def test_what_is_no_model_file_is_told_from_a_wrong_one(
    tmp_path: Path, name: str, data: bytes, named: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PackError, match=named):
        load_latency(tmp_path / name)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    (tmp_path / "named.yaml").write_text("kind: pack\npack: nowhere.npz\n")
    with pytest.raises((ConfigError, PackError), match=r"nowhere\.npz"):
        load_latency(tmp_path / "named.yaml")
    (tmp_path / "empty.yaml").write_text("kind: pack\n")
    with pytest.raises(ConfigError, match="pack: missing"):
        load_latency(tmp_path / "empty.yaml")

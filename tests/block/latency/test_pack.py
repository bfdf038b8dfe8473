"""Packs on disk come back as they were, or with an error that says what is wrong; wrong uses are refused."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from packs import HEADER, TINY, traffic_pack

from block.errors import PackError
from block.latency.pack import COLUMNS, PackHeader, PackUse, StepPack, load_pack, save_pack
from block.latency.pack_container import read_container, write_container
from block.types import BatchShape, EngineLimits


@pytest.fixture(scope="module")
def pack() -> StepPack:
    return traffic_pack(duration_s=20)


@pytest.fixture
def file(pack: StepPack, tmp_path: Path) -> Path:
    save_pack(tmp_path / "engine.npz", pack)
    return tmp_path / "engine.npz"


def test_a_pack_comes_back_as_it_was(pack: StepPack, file: Path) -> None:
    back = load_pack(file)
    assert back.header == pack.header
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(back, name), getattr(pack, name), atol=5.1e-8, err_msg=name)
    assert list(back.shapes()) == list(pack.shapes())


def test_a_pack_is_small_and_the_same_bytes_each_time(pack: StepPack, file: Path, tmp_path: Path) -> None:
    save_pack(tmp_path / "again.npz", pack)
    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()
    assert file.stat().st_size < 40 * len(pack) + 4000


def test_numpy_reads_the_columns(pack: StepPack, file: Path) -> None:
    assert np.load(file)["decode_tokens"].tolist() == pack.decode_tokens.tolist()


def test_a_short_pack_survives_no_cut_and_no_flipped_byte(pack: StepPack, tmp_path: Path) -> None:
    few = StepPack(pack.header, **{name: getattr(pack, name)[:5] for name in COLUMNS})
    whole = tmp_path / "whole.npz"
    save_pack(whole, few)
    data, other = whole.read_bytes(), tmp_path / "other.npz"
    for at in range(len(data)):
        other.write_bytes(data[:at])
        with pytest.raises(PackError, match=r"other\.npz"):
            load_pack(other)
        other.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        with pytest.raises(PackError, match=r"other\.npz"):
            load_pack(other)
    other.write_bytes(data + b"\0")
    with pytest.raises(PackError, match="bytes after its signature"):
        load_pack(other)


def zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme", "hello")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "is empty"),
        (b"kind: table\ntokens_ms: {1: 2}\n", "is no pack"),
        (zip_bytes(), "a zip file that is no pack"),
    ],
)
def test_a_foreign_file_is_named(tmp_path: Path, data: bytes, named: str) -> None:
    (tmp_path / "foreign.npz").write_bytes(data)
    with pytest.raises(PackError, match=rf"foreign\.npz.*{named}"):
        load_pack(tmp_path / "foreign.npz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"nowhere.*No such file"):
        load_pack(tmp_path / "nowhere.npz")


def test_a_signed_file_of_another_make_is_refused(pack: StepPack, file: Path, tmp_path: Path) -> None:
    raw, columns = read_container(file)
    made = tmp_path / "made.npz"
    header = msgspec.json.decode(raw)
    for changed, kept, named in (
        ({**header, "version": 2}, columns, "version 2.*reads version 1"),
        ({**header, "limits": 3}, columns, "limits"),
        (header, {name: values for name, values in columns.items() if name != "requests"}, "lacks.*requests"),
        (header, {**columns, "requests": columns["requests"][1:]}, "not equally long"),
        (header, {**columns, "duration_s": columns["duration_s"] * 0 - 7}, r"duration_s\[0\]"),
        (header, {**columns, "step": columns["step"] * 0}, r"step\[1\]"),
    ):
        write_container(made, msgspec.json.encode(changed), kept)
        with pytest.raises(PackError, match=named):
            load_pack(made)


def test_a_place_that_cannot_be_written_is_named(pack: StepPack, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="nowhere"):
        save_pack(tmp_path / "nowhere" / "pack.npz", pack)


USE = PackUse(TINY, 16, "float16", "auto", "none", 1, 1, "0.32.0", HEADER.limits)


def test_the_engine_that_was_recorded_may_use_it(pack: StepPack) -> None:
    assert pack.check_use(USE) == []
    assert pack.check_use(PackUse()) == []
    assert pack.check_use(replace(USE, dtype="bfloat16")) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": replace(TINY, layers=5)}, r"model \(layers recorded 4, here 5\)"),
        ({"block_size": 32}, r"block_size \(recorded 16, here 32\)"),
        ({"dtype": "float32"}, "dtype"),
        ({"cache_dtype": "fp8"}, "cache_dtype"),
        ({"quantization": "fp8"}, r"quantization \(recorded none, here fp8\)"),
        ({"tensor_parallel": 2}, "tensor_parallel"),
        ({"pipeline_parallel": 2}, "pipeline_parallel"),
        ({"vllm_version": "0.33.0"}, r"vllm_version \(recorded 0.32.0, here 0.33.0\)"),
    ],
)
def test_another_engine_is_refused_unless_that_is_wanted(pack: StepPack, change, named: str) -> None:
    with pytest.raises(PackError, match=named):
        pack.check_use(replace(USE, **change))
    assert len(pack.check_use(replace(USE, **change), allow=tuple(change))) == 1


def test_what_a_pack_does_not_tell_is_not_held_against_an_engine(pack: StepPack) -> None:
    told_nothing = replace(pack, header=PackHeader(None, EngineLimits(0, 0, 0, 0, 0), 0))
    assert told_nothing.check_use(replace(USE, limits=None, quantization="fp8")) == []
    header = replace(HEADER, model=replace(TINY, head_size=0))
    half_told = replace(pack, header=header)
    assert half_told.check_use(USE) == []
    with pytest.raises(PackError, match=r"model \(layers recorded 4, here 5\)"):
        half_told.check_use(replace(USE, model=replace(TINY, layers=5)))


def test_larger_limits_are_doubted(pack: StepPack) -> None:
    larger = EngineLimits(16, 2000, 96, 512, 4096, async_scheduling=True)
    doubts = pack.check_use(replace(USE, limits=larger))
    assert [doubt.partition(":")[0] for doubt in doubts] == [
        "max_num_seqs",
        "total_blocks",
        "async_scheduling",
    ]


def test_an_unknown_difference_cannot_be_allowed(pack: StepPack) -> None:
    with pytest.raises(PackError, match=r"allow: colour: unknown; known are model"):
        pack.check_use(USE, allow=("colour",))


def test_shapes_are_those_of_the_rows(pack: StepPack) -> None:
    first = next(iter(pack.shapes()))
    assert isinstance(first, BatchShape)
    assert pack.shape_array[0].tolist() == [
        first.tokens,
        first.context_tokens,
        first.prefill_context_products,
        first.requests,
        first.decode_tokens,
    ]

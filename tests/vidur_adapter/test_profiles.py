"""Readers of foreign profiles, on tiny ones made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from operator_profiles import HIDDEN, LAYERS, attention_us, dense_us, layer_profile, vidur_profile

from block.errors import PackError
from vidur_adapter.batch import StepBatch
from vidur_adapter.llmservingsim import LayerProfile, Link
from vidur_adapter.model import Constants, OperatorModel, Origin
from vidur_adapter.skew import SkewTable
from vidur_adapter.vidur_profiles import VidurProfiles


def seconds(model: OperatorModel, batch: StepBatch) -> float:
    return float(model.time([batch]).seconds[0])


def layers_us(tokens: int, requests: int) -> float:
    """qkv once a layer, layernorm twice, embedding once, lm_head once."""
    return dense_us(tokens) * (3 * LAYERS + 1) + 100 + requests


def test_a_step_is_the_sum_of_its_operators(tmp_path: Path) -> None:
    model = LayerProfile(layer_profile(tmp_path), LAYERS, HIDDEN).model()
    batch = StepBatch(((512, 512),), (1024.0,) * 16)
    expected = layers_us(528, 17) + LAYERS * attention_us(512, 512, 16, 1024)
    assert seconds(model, batch) * 1e6 == pytest.approx(expected, rel=1e-3)
    assert sum(share for _, share, _, _ in model.shares(batch)) == pytest.approx(seconds(model, batch))


def test_uneven_contexts_cost_a_share_of_the_way_to_the_longest(tmp_path: Path) -> None:
    model = LayerProfile(layer_profile(tmp_path), LAYERS, HIDDEN).model()
    even, uneven = StepBatch((), (1024.0,) * 16), StepBatch((), (24.0,) * 8 + (2024.0,) * 8)
    way = attention_us(0, 0, 16, 2024) - attention_us(0, 0, 16, 1024)
    extra_us = (seconds(model, uneven) - seconds(model, even)) * 1e6
    assert extra_us == pytest.approx(0.1 * LAYERS * way, rel=1e-3)


def test_without_a_skew_table_only_the_mean_context_counts(tmp_path: Path) -> None:
    model = LayerProfile(layer_profile(tmp_path, skew=False), LAYERS, HIDDEN).model()
    even, uneven = StepBatch((), (1024.0,) * 16), StepBatch((), (24.0,) * 8 + (2024.0,) * 8)
    assert seconds(model, even) == pytest.approx(seconds(model, uneven))


def test_many_short_prompts_cost_less_attention_than_one_long_one(tmp_path: Path) -> None:
    model = LayerProfile(layer_profile(tmp_path), LAYERS, HIDDEN).model()
    one, many = StepBatch(((2048, 0),), ()), StepBatch(((256, 0),) * 8, ())
    pairs = 1e-4 * (2048 * 1024 - 8 * 256 * 128)
    heads = 7  # more requests are sampled from
    saved_us = (seconds(model, one) - seconds(model, many)) * 1e6
    assert saved_us == pytest.approx(LAYERS * pairs - heads, rel=0.05)


def test_a_context_longer_than_measured_is_flagged_though_the_mean_is_within(tmp_path: Path) -> None:
    model = LayerProfile(layer_profile(tmp_path), LAYERS, HIDDEN).model()
    within, beyond = StepBatch((), (100.0, 16000.0)), StepBatch((), (100.0, 20000.0))
    assert model.time([within, beyond]).covered.tolist() == [True, False]


def test_an_unevenness_that_was_never_measured_is_told_as_assumed(tmp_path: Path) -> None:
    folder = layer_profile(tmp_path)
    path = folder / "tp1" / "skew_fit.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("0,n<=16,sr<=50%,kvB>1k,kp=0")))
    model = LayerProfile(folder, LAYERS, HIDDEN).model()
    even, unmeasured = StepBatch((), (1024.0,) * 16), StepBatch((), (24.0,) * 8 + (2024.0,) * 8)
    measured = StepBatch((), (24.0,) * 2 + (2024.0,) * 14)
    timing = model.time([even, measured, unmeasured])
    extra_s = timing.seconds[2] - timing.seconds[0]
    assert timing.covered.all()
    assert timing.assumed_s.tolist() == pytest.approx([0, 0, extra_s])
    assert extra_s > 0


def test_unevenness_beyond_the_bins_is_told_as_assumed(tmp_path: Path) -> None:
    path = layer_profile(tmp_path) / "tp1" / "skew_fit.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "kvB>1k" not in line))
    skew = SkewTable.load(path)
    within, beyond = StepBatch((), (24.0,) * 8 + (1000.0,) * 8), StepBatch((), (24.0,) * 8 + (2024.0,) * 8)
    assert (skew.share(within, 0.0), skew.share(beyond, 0.0)) == ((0.1, True), (0.1, False))


def test_a_context_longer_than_measured_is_flagged_where_only_the_mean_is_costed(tmp_path: Path) -> None:
    profiles = VidurProfiles(vidur_profile(tmp_path))
    attention = profiles.attention(profiles.compute_folder("a30", "Llama-2-7b-hf"), devices=1)
    assert attention is not None
    within, beyond = StepBatch((), (100.0, 4000.0)), StepBatch((), (100.0, 5000.0))
    assert attention.time([within, beyond]).covered.tolist() == [True, False]


def test_captured_graphs_run_at_padded_sizes(tmp_path: Path) -> None:
    profile = LayerProfile(layer_profile(tmp_path), LAYERS, HIDDEN, captured_tokens=512)
    padded = [profile.model().padded(tokens) for tokens in (1, 3, 9, 64, 250, 256, 257, 512, 513)]
    assert padded == [1, 4, 16, 64, 256, 256, 272, 512, 513]


def test_devices_without_all_reduce_times_need_a_link(tmp_path: Path) -> None:
    folder = layer_profile(tmp_path, tp=2)
    with pytest.raises(PackError, match="name the link's"):
        LayerProfile(folder, LAYERS, HIDDEN, tensor_parallel=2).model()
    link = Link(gb_s=1.0, latency_s=1e-5)
    model = LayerProfile(folder, LAYERS, HIDDEN, tensor_parallel=2, link=link).model()
    batch = StepBatch((), (1024.0,) * 64)
    reduce_us = (64 * 2 * HIDDEN / 1e9 + 1e-5) * 1e6
    expected = layers_us(64, 64) + LAYERS * attention_us(0, 0, 64, 1024) + 2 * LAYERS * reduce_us
    assert seconds(model, batch) * 1e6 == pytest.approx(expected, rel=1e-3)
    assert {origin for _, _, origin, _ in model.shares(batch)} == {"measured", "assumed"}
    assert model.time([batch]).assumed_s[0] * 1e6 == pytest.approx(2 * LAYERS * reduce_us)


@pytest.mark.parametrize(("origin", "assumed_s"), [("assumed", 0.003), ("fitted", 0.0)])
def test_constants_that_nobody_fitted_are_told_as_assumed(
    tmp_path: Path, origin: Origin, assumed_s: float
) -> None:
    constants = Constants(step_s=0.001, request_s=0.0001, origin=origin)
    model = LayerProfile(layer_profile(tmp_path), LAYERS, HIDDEN, constants=constants).model()
    assert model.time([StepBatch((), (1024.0,) * 20)]).assumed_s[0] == pytest.approx(assumed_s)


def test_a_missing_profile_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"tp4: no such profile; .* has tp1"):
        LayerProfile(layer_profile(tmp_path), LAYERS, HIDDEN, tensor_parallel=4).model()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("layer,tokens\nqkv,1\n", "no column time_us"),
        ("layer,tokens,time_us\nqkv,1,fast\n", "must be numbers"),
        ("layer,tokens,time_us\nqkv,1\n", "dense.csv:2: not 3 columns"),
        ("", "not a CSV file"),
        ("layer,tokens,time_us\n", "no rows below the header"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, text: str, wrong: str) -> None:
    folder = layer_profile(tmp_path)
    (folder / "tp1" / "dense.csv").write_text(text)
    with pytest.raises(PackError, match=wrong):
        LayerProfile(folder, LAYERS, HIDDEN).model()


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_vidur_tables_are_read_whatever_their_version(tmp_path: Path, statistic: str) -> None:
    profiles = VidurProfiles(vidur_profile(tmp_path, statistic=statistic))
    folder = profiles.compute_folder("a30", "Llama-2-7b-hf")
    parts = {part.operator.name: part for part in profiles.linear_parts(folder, LAYERS, devices=2)}
    assert set(parts) == {"emb", "attn_pre_proj", "mlp_up_proj"}
    assert (parts["emb"].times, parts["mlp_up_proj"].times) == (1, LAYERS)
    attention = profiles.attention(folder, devices=2)
    assert attention is not None
    timing = attention.time([StepBatch(((512, 1024),), (16.0,) * 16)])
    expected = attention_us(512, 1024, 0, 0) + attention_us(0, 0, 16, 16) + 2  # each saves keys and values
    assert timing.seconds[0] * 1e6 == pytest.approx(expected)


def test_vidur_folders_without_compute_and_organisation_are_read(tmp_path: Path) -> None:
    vidur_profile(tmp_path / "full")
    flat = tmp_path / "flat" / "a30" / "Llama-2-7b-hf"
    flat.parent.mkdir(parents=True)
    (tmp_path / "full/compute/a30/meta-llama/Llama-2-7b-hf").rename(flat)
    profiles = VidurProfiles(tmp_path / "flat")
    assert profiles.models() == [("a30", "Llama-2-7b-hf")]
    assert profiles.compute_folder("a30", "Llama-2-7b-hf") == flat


def test_rows_that_cannot_be_true_are_left_out_and_counted(tmp_path: Path) -> None:
    profiles = VidurProfiles(vidur_profile(tmp_path))
    folder = profiles.compute_folder("a30", "Llama-2-7b-hf")
    path = folder / "mlp.csv"
    path.write_text(path.read_text() + "0.0001,0.0001,0.0001,1024,1\n")
    for part in profiles.linear_parts(folder, LAYERS, devices=1):
        assert "without 1 impossible rows" in part.note
        assert part.operator.time(np.array([[1024.0]])).seconds[0] * 1e6 == pytest.approx(dense_us(1024))


def test_vidur_collectives_are_read_from_either_layout(tmp_path: Path) -> None:
    profiles = VidurProfiles(vidur_profile(tmp_path))
    nested = profiles.collective("a30", "all_reduce", 2)
    (tmp_path / "network/a30/all_reduce.csv").rename(tmp_path / "network/a30_all_reduce.csv")
    assert (
        profiles.collective("a30", "all_reduce", 2).samples.seconds.tolist()
        == nested.samples.seconds.tolist()
    )
    with pytest.raises(PackError, match="no all_reduce over a40; has a30"):
        profiles.collective("a40", "all_reduce", 2)


def test_collectives_without_their_own_times_are_refused_by_name(tmp_path: Path) -> None:
    profiles = VidurProfiles(vidur_profile(tmp_path))
    path = tmp_path / "network/a30/send_recv.csv"
    path.write_text(path.read_text().replace("send_recv", "broadcast"))
    with pytest.raises(PackError, match=r"no time_stats\.send_recv; has time_stats\.broadcast"):
        profiles.collective("a30", "send_recv", 2)


def test_a_batch_that_spans_more_devices_than_a_node_has_uses_what_was_measured(tmp_path: Path) -> None:
    profiles = VidurProfiles(vidur_profile(tmp_path))
    path = tmp_path / "network/a30/all_reduce.csv"
    path.write_text(
        "\n".join(line.removesuffix(",2") + ",8" * line.endswith(",2") for line in path.read_text().split())
    )
    assert profiles.collective("a30", "all_reduce", 2).time(np.array([[2048.0]])).covered[0]


def test_devices_that_were_not_measured_are_refused_by_name(tmp_path: Path) -> None:
    profiles = VidurProfiles(vidur_profile(tmp_path))
    folder = profiles.compute_folder("a30", "Llama-2-7b-hf")
    with pytest.raises(PackError, match="= 8: not measured; has 1, 2"):
        list(profiles.linear_parts(folder, LAYERS, devices=8))

"""The roberta path on a tiny encoder made here: trains, resumes, saves, exports, and never raises."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from block.errors import ConfigError, PackError
from length_estimation.dataset import read_examples
from length_estimation.estimator import EstimationRequest
from length_estimation.export import export
from length_estimation.factory import load_trained
from length_estimation.model_folder import read_card
from length_estimation.quantiles import LEVELS
from length_estimation.roberta import load_roberta
from length_estimation.split import groups_of
from length_estimation.token_counter import make_token_counter

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

ROOT = Path(__file__).parents[2]


def run_cli(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "length_estimation.cli", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def roberta_folder(tmp_path_factory, data_folder):
    folder = tmp_path_factory.mktemp("roberta") / "model"
    card = run_cli(
        *("train", "roberta", "--encoder", "tiny", "--data", data_folder, "--out", folder),
        *("--epochs", 4, "--learning-rate", 3e-3, "--most-tokens", 64, "--batch", 16),
    )
    assert card["metrics"]["rows"] > 40
    assert set(card["files"]) == {"encoder.json", "input.json", "model.safetensors", "tokenizer.json"}
    return folder


def ask(prompt, max_tokens=4096):
    return EstimationRequest(5, max_tokens, prompt_json=json.dumps(prompt).encode(), model="small")


def test_it_learns_that_the_task_decides_the_length(roberta_folder):
    estimator = load_trained(roberta_folder)
    essay, word = estimator.estimate_all(
        [
            ask("Write a long essay about tea, item 1000."),
            ask("Say in one word what you think of tea, item 1000."),
        ]
    )
    assert essay.source == "roberta"
    assert essay.median_tokens > 5 * word.median_tokens


@pytest.mark.parametrize(
    "prompt", ["", "x", "🙂" * 500, "\ud800", "a b " * 300_000, [1, 2, 3], {"no": "prompt"}]
)
def test_any_prompt_gets_an_estimate(roberta_folder, prompt):
    tokens = [value for _, value in load_roberta(roberta_folder).estimate(ask(prompt, 77)).quantiles]
    assert len(tokens) == len(LEVELS)
    assert tokens == sorted(tokens)
    assert 1 <= tokens[0] <= tokens[-1] <= 77


def test_onnx_says_the_same_in_any_batch(roberta_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(roberta_folder, folder)
    exported = run_cli("export", "--model", folder)
    assert exported["worst_log_tokens"] < 1e-4
    assert "model.onnx" in read_card(folder, "roberta").files
    requests = [ask("Name tea."), ask("Write a long essay about the tax code, item 3, " * 9), ask("x")]
    torch_said = load_roberta(roberta_folder).estimate_all(requests)
    onnx_said = [load_roberta(folder).estimate(request) for request in requests]
    for one, other in zip(torch_said, onnx_said, strict=True):
        assert one.unbounded == pytest.approx(other.unbounded, rel=1e-3)
    timed = run_cli("bench", "--model", folder, "--calls", 10)
    assert timed["16 words"]["p50_ms"] > 0


def test_an_export_says_what_it_costs(roberta_folder, data_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(roberta_folder, folder)
    exported = run_cli("export", "--model", folder, "--int8", "--most-tokens", 9, "--data", data_folder)
    card = read_card(folder, "roberta")
    assert (card.settings["export"], card.settings["most_tokens"]) == ({"int8": True, "most_tokens": 9}, 64)
    assert card.metrics["export"]["exported"] == exported["exported"]
    assert exported["rows"] == card.metrics["rows"]
    assert exported["trained"]["pinball"] == pytest.approx(card.metrics["pinball"], rel=1e-3)
    assert exported["exported"]["pinball"] > 0
    assert 1e-4 < exported["worst_log_tokens"] < 0.5
    long = ask("Write a long essay about " + "tea " * 60)
    read = load_roberta(folder)._encoding.ids(long)
    assert len(read) == 9
    with pytest.raises(ConfigError, match="reads 9 at most"):
        export(folder, most_tokens=10)


def test_many_threads_say_the_same(roberta_folder):
    one, two = (load_trained(roberta_folder, threads).estimate(ask("Name tea.")) for threads in (1, 2))
    assert one.unbounded == pytest.approx(two.unbounded, rel=1e-4)


@pytest.mark.parametrize("limit", [None, 50])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, data_folder, cut_every_other, limit):
    from length_estimation.roberta_training import RobertaOptions, train_roberta

    examples = read_examples(data_folder, make_token_counter(None))[:90]
    examples = examples if limit is None else cut_every_other(examples, limit)
    groups = groups_of([example.keys for example in examples])
    options = RobertaOptions("tiny", epochs=3, learning_rate=1e-3, most_tokens=32, patience=9)

    def stop(progress):
        if progress.epoch == 2:
            raise KeyboardInterrupt

    whole = []
    train_roberta(examples, groups, options, None, whole.append)
    with pytest.raises(KeyboardInterrupt):
        train_roberta(examples, groups, options, tmp_path / "run", stop)
    rest = []
    train_roberta(examples, groups, options, tmp_path / "run", rest.append)
    assert [progress.epoch for progress in rest] == [3]
    assert rest[0].held_out_loss == pytest.approx(whole[2].held_out_loss, rel=1e-5)
    with pytest.raises(PackError, match="a checkpoint of other options or data"):
        train_roberta(examples[:80], groups[:80], options, tmp_path / "run")
    with pytest.raises(PackError, match="a checkpoint of other options or data"):
        train_roberta(examples[::-1], groups[::-1], options, tmp_path / "run")
    (saved,) = (tmp_path / "run").glob("optimizer-*.safetensors")
    saved.write_bytes(b"nonsense")
    with pytest.raises(PackError, match=r"damaged checkpoint .*; remove it"):
        train_roberta(examples, groups, options, tmp_path / "run")


def test_a_run_that_was_stopped_while_it_wrote_goes_on_from_the_epoch_before(
    tmp_path, data_folder, monkeypatch
):
    from length_estimation import training_checkpoint
    from length_estimation.roberta_training import RobertaOptions, train_roberta

    examples = read_examples(data_folder, make_token_counter(None))[:60]
    groups = groups_of([example.keys for example in examples])
    options = RobertaOptions("tiny", epochs=3, learning_rate=1e-3, most_tokens=16, patience=9)

    def breaking(state, path):
        path.write_bytes(b"half")
        if path.name.startswith("optimizer-2"):
            raise KeyboardInterrupt
        save(state, path)

    save = training_checkpoint.save_weights
    monkeypatch.setattr(training_checkpoint, "save_weights", breaking)
    with pytest.raises(KeyboardInterrupt):
        train_roberta(examples, groups, options, tmp_path / "run")
    monkeypatch.undo()
    epochs = []
    train_roberta(examples, groups, options, tmp_path / "run", lambda done: epochs.append(done.epoch))
    assert epochs == [2, 3]
    assert len(list((tmp_path / "run").iterdir())) <= 4


def few(data_folder):
    examples = read_examples(data_folder, make_token_counter(None))[:60]
    return examples, groups_of([example.keys for example in examples])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"device": "tpu"}, "must be auto, cpu or cuda"),
        ({"precision": "int4"}, "must be auto, float32 or bfloat16"),
        ({"learning_rate": 1e30}, "lower --learning-rate"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: must be above 0"),
        ({"layers": 3}, "--layers 3: the encoder 'tiny' has 2"),
    ],
)
def test_what_cannot_be_trained_says_so(data_folder, options, complaint):
    from length_estimation.roberta_training import RobertaOptions, train_roberta

    with pytest.raises(ConfigError, match=complaint):
        train_roberta(*few(data_folder), RobertaOptions("tiny", epochs=2, most_tokens=16, **options))


def test_mixed_precision_and_fewer_layers_learn_as_well(data_folder):
    from length_estimation.roberta_training import RobertaOptions, train_roberta

    losses = {}
    for precision in ("float32", "bfloat16"):
        done = []
        options = RobertaOptions(
            "tiny", epochs=3, learning_rate=3e-3, most_tokens=16, layers=1, precision=precision
        )
        trained = train_roberta(*few(data_folder), options, None, done.append)
        assert trained.encoder.regressor.encoder.config.num_hidden_layers == 1
        losses[precision] = [progress.held_out_loss for progress in done]
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)


def test_an_encoder_can_be_a_local_folder_and_must_be_there(tmp_path, roberta_folder):
    from transformers import AutoModel, PreTrainedTokenizerFast

    from length_estimation.encoder import load_regressor, open_encoder

    load_regressor(roberta_folder).encoder.save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(roberta_folder / "tokenizer.json"), pad_token="<pad>"
    )
    tokenizer.save_pretrained(tmp_path)
    opened = open_encoder(str(tmp_path), [], seed=0)
    before = AutoModel.from_pretrained(tmp_path).state_dict()
    after = opened.regressor.encoder.state_dict()
    assert all(bool((after[name] == tensor).all()) for name, tensor in before.items())
    assert (opened.pad_id, opened.most_tokens) == (1, 512)
    shorter = open_encoder(str(tmp_path), [], seed=0, layers=1).regressor.encoder.state_dict()
    assert set(shorter) == {name for name in before if "layer.1." not in name}
    assert all(bool((before[name] == tensor).all()) for name, tensor in shorter.items())
    with pytest.raises(ConfigError, match=r"--layers 3: the encoder .* has 2"):
        open_encoder(str(tmp_path), [], seed=0, layers=3)
    with pytest.raises(ConfigError, match=r"cannot be had .* or one of tiny, small, base"):
        open_encoder(str(tmp_path / "nowhere"), [], seed=0)


def _without_layer(weights):
    return {name: tensor for name, tensor in weights.items() if "layer.1." not in name}


def _of_another_width(weights):
    return {name: tensor[..., :3].clone() for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (_without_layer, r"weights lack encoder\.layer\.1\..*, and 15 more"),
        (_of_another_width, "cannot be had"),
        (None, "cannot be had"),
    ],
)
def test_an_encoder_s_weights_are_all_its_own(tmp_path, roberta_folder, harm, complaint):
    """What is missing or does not fit would be made up."""
    from safetensors.torch import load_file, save_file

    from length_estimation.encoder import load_regressor, open_encoder

    load_regressor(roberta_folder).encoder.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    if harm is None:
        path.write_bytes(b"no weights")
    else:
        save_file(harm(load_file(path)), path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=complaint):
        open_encoder(str(tmp_path), [], seed=0)


def test_weights_that_do_not_fit_are_refused(roberta_folder, tmp_path):
    from length_estimation.encoder import load_regressor

    shutil.copytree(roberta_folder, tmp_path / "model")
    path = tmp_path / "model" / "encoder.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(PackError, match="do not fit"):
        load_regressor(tmp_path / "model")
    with pytest.raises(PackError, match=r"encoder\.json: damaged"):
        load_roberta(tmp_path / "model")


def test_responses_that_were_cut_do_not_pass_for_short_ones(data_folder, cut_every_other):
    from length_estimation.roberta_training import RobertaOptions, train_roberta
    from length_estimation.saved_training import roberta_estimator

    examples = read_examples(data_folder, make_token_counter(None))[:200]
    groups = groups_of([example.keys for example in examples])
    shortened = cut_every_other(examples, 50)
    taken_for_lengths = [replace(example, cut=False) for example in shortened]
    options = RobertaOptions("tiny", epochs=10, learning_rate=3e-3, most_tokens=16, layers=1, patience=10)
    said = {}
    for name, taught in (("whole", examples), ("cut", shortened), ("naive", taken_for_lengths)):
        estimator = roberta_estimator(train_roberta(taught, groups, options))
        long, short = (
            estimator.estimate(ask(prompt))
            for prompt in ("Write a long essay about tea.", "Name tea, item 7.")
        )
        said[name] = long.quantiles[2][1], long.median_tokens, short.median_tokens
    assert said["naive"][0] < 100
    assert said["cut"] == pytest.approx(said["whole"], rel=0.4)

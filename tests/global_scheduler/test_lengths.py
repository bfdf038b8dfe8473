"""Length estimates in the scheduler: predictors are told distributions, and trouble never shows."""

from __future__ import annotations

import json
import socket

import pytest
from openai_answers import TOKENS

from block.errors import BlockError
from global_scheduler.app import create_app
from length_estimation.dataset import read_examples
from length_estimation.features_training import FeaturesOptions
from length_estimation.quantiles import LEVELS
from length_estimation.saved_training import train_and_save_features
from length_estimation.token_counter import make_token_counter


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lengths")
    rows = [{"prompt": f"list {i} things", "response": "a" * (40 + i % 60)} for i in range(80)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    examples = read_examples(folder, make_token_counter(None))
    train_and_save_features(examples, {}, folder / "model", FeaturesOptions(5), lambda _what, _share: None)
    return folder / "model"


async def test_a_trained_estimator_s_distribution_reaches_the_predictors(world, model):
    fleet = await world(
        instances=1, predictors=True, policy="block", estimator="features", lengths={"model": str(model)}
    )
    answer = await fleet.chat(messages=[{"role": "user", "content": "list 7 things"}], temperature=0.5)
    assert answer.status_code == 200
    (question,) = fleet.predictors["a"].questions
    assert [level for level, _ in question.candidate.output_quantiles] == list(LEVELS)
    assert 8 <= question.candidate.output_tokens <= 30


async def test_a_length_service_that_is_down_does_not_show(world):
    lengths = {"url": "http://127.0.0.1:1", "deadline_s": 0.05}
    fleet = await world(instances=1, predictors=True, policy="block", estimator="remote", lengths=lengths)
    assert (await fleet.chat(temperature="hot")).status_code == 200
    (question,) = fleet.predictors["a"].questions
    assert len(question.candidate.output_quantiles) == len(LEVELS)


async def test_a_damaged_model_stops_the_start(world, model, tmp_path):
    fleet = await world(instances=1)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(BlockError, match="not a model's card"):
        create_app(fleet.configure({"estimator": "features", "lengths": {"model": str(tmp_path)}}))


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_teach_how_long_answers_are(world, stream):
    fleet = await world(instances=1, predictors=True, policy="block", estimator="history")
    for _ in range(40):
        assert (await fleet.chat(stream=stream)).status_code == 200
    first, *_, last = fleet.predictors["a"].questions
    assert first.candidate.output_tokens > 100
    assert last.candidate.output_tokens == pytest.approx(TOKENS, abs=2)


async def test_answers_that_did_not_come_teach_nothing(world):
    fleet = await world(instances=1, predictors=True, policy="block", estimator="history")
    fleet.instances["a"].behaviour = "die_in_event"
    for _ in range(5):
        await fleet.chat(stream=True)
    fleet.instances["a"].behaviour = "refuse"
    for _ in range(5):
        await fleet.chat()
    first, *_, last = fleet.predictors["a"].questions
    assert last.candidate.output_tokens == first.candidate.output_tokens


async def test_a_policy_without_need_of_lengths_waits_for_none(world):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        lengths = {"url": f"http://127.0.0.1:{mute.getsockname()[1]}", "deadline_s": 5}
        fleet = await world(instances=1, policy="round_robin", estimator="remote", lengths=lengths)
        answer = await fleet.chat(stream=True)
    assert answer.status_code == 200
    assert float(answer.headers["x-block-decision-ms"]) < 1000

"""Length estimates in the scheduler: predictors are told distributions, and trouble never shows."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from openai_answers import MODEL, TOKENS
from scheduler_world import Scheduler
from typer.testing import CliRunner

from block.decision_receipt import read_receipts
from block.errors import BlockError
from global_scheduler.app import create_app
from length_estimation.cli import app as block_length
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


async def test_a_length_service_that_is_down_shows_in_the_receipt_only(world, tmp_path, wait_until):
    lengths = {"url": "http://127.0.0.1:1", "deadline_s": 0.05}
    file = tmp_path / "receipts.jsonl"
    fleet = await world(
        instances=1,
        predictors=True,
        policy="block",
        estimator="remote",
        lengths=lengths,
        receipts={"file": str(file)},
    )
    assert (await fleet.chat(temperature="hot")).status_code == 200
    (question,) = fleet.predictors["a"].questions
    assert len(question.candidate.output_quantiles) == len(LEVELS)
    await wait_until(lambda: file.exists() and file.read_bytes().endswith(b"\n"))
    assert [receipt.expected_by for receipt in read_receipts(file)] == ["history 0"]


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


async def admin(fleet, method, path="", **fields):
    return await fleet.http.request(method, f"{fleet.url}/admin/lengths{path}", **fields)


async def test_what_was_learned_is_shown_and_forgotten(world, model):
    fleet = await world(
        instances=1, predictors=True, policy="block", estimator="features", lengths={"model": str(model)}
    )
    for _ in range(30):
        await fleet.chat()
    shown = (await admin(fleet, "GET")).json()
    (served,) = shown["corrections"]
    assert (shown["estimator"], shown["corrections"][served]) == ("features", 30)
    assert {name: shown["tally"][name] for name in ("asked", "cached", "learned")} == {
        "asked": 1,
        "cached": 29,
        "learned": 30,
    }
    assert await fleet.metric('block_length_estimates_total{outcome="cached"}') == 29
    other = await admin(fleet, "POST", "/reset", json={"model": "another"})
    assert other.json()["corrections"] == shown["corrections"]
    await fleet.chat()
    assert (await admin(fleet, "POST", "/reset", json={"model": served})).json()["corrections"] == {}
    await fleet.chat()
    first, *_, learned, fresh = (question.candidate for question in fleet.predictors["a"].questions)
    assert abs(learned.output_tokens - TOKENS) < abs(first.output_tokens - TOKENS)
    assert fresh.output_quantiles == first.output_quantiles
    assert (await admin(fleet, "POST", "/reset")).json()["corrections"] == {}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "", None, 405),
        ("GET", "/reset", None, 405),
        ("POST", "/reset", {"name": "m"}, 400),
        ("POST", "/reset", [], 400),
    ],
)
async def test_what_makes_no_sense_of_lengths_is_refused(world, method, path, body, status):
    fleet = await world(instances=1)
    answer = await admin(fleet, method, path, json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_one_of_several_workers_does_not_forget_alone(world):
    fleet = await world(instances=1)
    await fleet.scheduler.stop()
    fleet.scheduler = Scheduler(fleet.configure({}), worker=1)
    await fleet.scheduler.start()
    answer = await admin(fleet, "POST", "/reset")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "several_workers")


@pytest.mark.parametrize(
    "content",
    [
        b'"x"',
        b'""',
        b"null",
        b'"%b"' % (b"tea " * 250_000),
        "写一首诗 🙂".encode().join((b'"', b'"')),
        b'[{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": "data:%b"}}]'
        % (b"A" * 1_000_000),
        b'[{"type": "input_audio", "input_audio": {}}, 5, null]',
    ],
    ids=["byte", "empty", "null", "1 MB", "any language", "image", "odd parts"],
)
@pytest.mark.parametrize("estimator", ["features", "history"])
async def test_any_prompt_is_estimated_and_served(world, model, estimator, content):
    fleet = await world(
        instances=1, predictors=True, policy="block", estimator=estimator, lengths={"model": str(model)}
    )
    body = b'{"model": "llama", "max_tokens": 50, "messages": [{"role": "user", "content": %b}]}' % content
    answer = await fleet.http.post(f"{fleet.url}/v1/chat/completions", content=body)
    assert answer.status_code == 200
    (question,) = fleet.predictors["a"].questions
    tokens = [value for _, value in question.candidate.output_quantiles]
    assert len(tokens) == len(LEVELS)
    assert 1 <= tokens[0] <= tokens[-1] <= 50


@pytest.mark.parametrize(
    ("options", "variable", "said"),
    [
        ((), "OPENAI_API_KEY", '{"written": 3'),
        (("--key-env", "MY_KEY"), "MY_KEY", '{"written": 3'),
        ((), "UNRELATED", "wants an API key; put it into OPENAI_API_KEY"),
        ((), "OPENAI_API_KEY=wrong", "does not take the API key that it was sent (HTTP status 401)"),
        (
            ("--key-env", "MY_KEY"),
            "OPENAI_API_KEY",
            "--key-env MY_KEY: there is no such",
        ),
    ],
    ids=str,
)
async def test_sampling_through_the_router_brings_a_key_that_nothing_shows(
    world, tmp_path, monkeypatch, caplog, options, variable, said
):
    key = "router-key-1"
    monkeypatch.setenv("ROUTER_KEYS", key)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    name, _, value = variable.partition("=")
    monkeypatch.setenv(name, value or key)
    fleet = await world(access={"keys": {"env": "ROUTER_KEYS"}})
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"prompt": f"p{i}"}) for i in range(3)))
    arguments = ["--data", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    arguments += ["--url", f"{fleet.url}/v1", "--model", MODEL, *options]
    run = await asyncio.to_thread(CliRunner().invoke, block_length, ["sample", *arguments])
    told = f"{run.output} {run.exception}"
    assert said in told
    reached = [headers for one in fleet.instances.values() for headers, _, _ in one.received]
    assert len(reached) == (3 if "written" in said else 0)
    written = (tmp_path / "out.jsonl").read_text() if (tmp_path / "out.jsonl").exists() else ""
    assert written.count(f'"output_tokens":{TOKENS}') == len(reached)
    for secret in (key, value or key):
        assert secret not in told + written + caplog.text

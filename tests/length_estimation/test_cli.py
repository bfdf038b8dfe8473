"""train, tag and sample, as they are called."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
import uvicorn
from fastapi import FastAPI
from typer.testing import CliRunner

from length_estimation.cli import app
from length_estimation.dataset import read_examples
from length_estimation.factory import load_trained
from length_estimation.split import groups_of
from length_estimation.token_counter import make_token_counter

COUNTER = make_token_counter(None)


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_help_has_examples():
    commands = (
        "evaluate",
        "train",
        "train features",
        "train roberta",
        "tag",
        "sample",
        "serve",
        "export",
        "bench",
    )
    for command in commands:
        result = run(*command.split(), "--help")
        assert result.exit_code == 0
        assert "Example: block-length" in result.output


def test_train_writes_a_card_and_does_not_overwrite_strangers(data_folder, tmp_path):
    result = run("train", "features", "--data", data_folder, "--out", tmp_path / "model")
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout.splitlines()[-1])
    assert (card["kind"], card["data"]["rows"]) == ("features", 400)
    assert card["data"]["sha256"].keys() == {data_folder.name}
    assert card["metrics"]["kendall_tau"] > 0.5
    assert "scikit-learn" in card["versions"]
    (tmp_path / "few.jsonl").write_text('{"prompt": "p", "response": "r"}')
    failed = run("train", "features", "--data", tmp_path / "few.jsonl", "--out", tmp_path / "model")
    assert "too few to train on" in str(failed.exception)
    assert load_trained(tmp_path / "model")  # the model that was there is there
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("dear")
    refused = run("train", "features", "--data", data_folder, "--out", tmp_path / "mine")
    assert "holds something else" in str(refused.exception)
    assert run("train", "magic", "--data", data_folder, "--out", tmp_path / "x").exit_code == 2


def test_tag_adds_predictions_and_leaves_the_rest(features_folder, tmp_path):
    chat = {
        "conversations": [{"from": "human", "value": "Name tea."}, {"from": "gpt", "value": "tea"}],
        "x": [1],
    }
    rows = [{"prompt": "Write a long essay about tea.", "mark": "kept"}, chat]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = run(
        "tag", "--model", features_folder, "--data", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl"
    )
    assert result.exit_code == 0, result.output
    tagged = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert tagged[0]["mark"] == "kept"
    assert tagged[0]["predicted_tokens"] > 200
    assert tagged[0]["predicted_by"].startswith("features-")
    assert tagged[1]["conversations"] == chat["conversations"]
    assert len(tagged[1]["predicted_tokens"]) == 1


def test_tag_estimates_in_order_whatever_the_number_of_turns(features_folder, tmp_path):
    prompts = [f"{'Name' if i % 2 else 'Write a long essay about'} tea, item {i}." for i in range(100)]
    turns = [{"role": role, "content": text} for text in prompts for role in ("user", "assistant")]
    rows = [*({"prompt": prompt} for prompt in prompts), {"messages": turns}, {"messages": []}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ("--model", features_folder, "--data", tmp_path / "in.jsonl")
    done = run("tag", *arguments, "--out", tmp_path / "out.jsonl")
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 102
    tagged = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    short, long = tagged[1:100:2], tagged[0:100:2]
    assert max(row["predicted_tokens"] for row in short) < min(row["predicted_tokens"] for row in long)
    assert [len(row["predicted_tokens"]) for row in tagged[100:]] == [100, 0]
    before = (tmp_path / "in.jsonl").read_bytes()
    for command in (("tag", *arguments), ("sample", *arguments[2:])):
        refused = run(*command, "--out", tmp_path / "in.jsonl")
        assert "is read as well" in str(refused.exception)
    assert (tmp_path / "in.jsonl").read_bytes() == before


def test_tokens_are_counted_as_in_training(tokenizer_path, tmp_path):
    rows = [{"prompt": f"What is {n} times 7?", "response": "It is " + "a" * (n % 50)} for n in range(80)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = ("--data", tmp_path)
    by_tokens = ("--tokenizer", tokenizer_path)
    for folder, counting in (("bytes", ()), ("tokens", by_tokens)):
        trained = run("train", "features", *data, *counting, "--out", tmp_path / folder)
        assert trained.exit_code == 0, trained.output
    said = {}
    other = tmp_path / "other" / tokenizer_path.name  # the same name, as all have it
    other.parent.mkdir()
    other.write_bytes(tokenizer_path.read_bytes() + b"\n")
    for folder, counting in (("bytes", ()), ("tokens", by_tokens)):
        tag = ("tag", "--model", tmp_path / folder, *data, "--out", tmp_path / "tagged.jsonl")
        assert run(*tag, *counting).exit_code == 0
        said[folder] = json.loads((tmp_path / "tagged.jsonl").read_text().splitlines()[0])["predicted_tokens"]
        for wrong in (() if counting else by_tokens, ("--tokenizer", other)):
            assert "was trained on tokens counted by" in str(run(*tag, *wrong).exception)
        assert "cannot be read" in str(run(*tag, "--tokenizer", tmp_path / "nowhere").exception)
    assert said["bytes"] != said["tokens"]


def test_what_cannot_be_written_or_holds_nothing_is_said(features_folder, data_folder, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "file").write_text("")
    for command in (("tag", "--model", features_folder), ("sample",)):
        lost = run(*command, "--data", data_folder, "--out", tmp_path / "nowhere" / "out.jsonl")
        assert "cannot be written" in str(lost.exception)
        empty = run(*command, "--data", tmp_path / "empty.jsonl", "--out", tmp_path / "out.jsonl")
        assert "empty.jsonl: no " in str(empty.exception)
    stray = run("train", "features", "--data", data_folder, "--out", tmp_path / "file" / "model")
    assert "cannot be made" in str(stray.exception)


def test_sample_converts_recorded_conversations(tmp_path):
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a" * 40}] * 2
    (tmp_path / "sharegpt.json").write_text(json.dumps([{"id": "c", "conversations": turns}]))
    arguments = ("sample", "--data", tmp_path / "sharegpt.json", "--out", tmp_path / "data.jsonl")
    assert json.loads(run(*arguments).stdout) == {"written": 2, "known": 0, "failed": 0}
    assert json.loads(run(*arguments).stdout) == {"written": 0, "known": 2, "failed": 0}
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    assert [row["output_tokens"] for row in rows] == [10, 10]
    assert [len(row["messages"]) for row in rows] == [1, 3]
    assert {row["id"] for row in rows} == {"sharegpt.json/c"}


def test_sample_goes_on_after_a_line_that_was_not_written_whole(tmp_path):
    rows = [{"id": i, "prompt": f"p{i}", "response": "a" * 40} for i in range(3)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ("sample", "--data", tmp_path / "in.jsonl", "--out", tmp_path / "data.jsonl")
    run(*arguments)
    whole = (tmp_path / "data.jsonl").read_bytes()
    (tmp_path / "data.jsonl").write_bytes(whole[:-20])
    assert json.loads(run(*arguments).stdout) == {"written": 1, "known": 2, "failed": 0}
    assert (tmp_path / "data.jsonl").read_bytes() == whole
    (tmp_path / "data.jsonl").write_bytes(whole.rstrip())
    assert json.loads(run(*arguments).stdout) == {"written": 0, "known": 3, "failed": 0}
    assert (tmp_path / "data.jsonl").read_bytes() == whole


def test_sample_keeps_lengths_that_were_recorded_without_the_answer(tmp_path):
    rows = [
        {"id": None, "prompt": "p", "output_tokens": 7, "max_tokens": 7, "finish_reason": "length"},
        {"id": None, "prompt": "q", "completion_tokens": 9, "temperature": 0.5},
        {"prompt": "r"},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = run("sample", "--data", tmp_path / "in.jsonl", "--out", tmp_path / "data.jsonl")
    assert json.loads(made.stdout) == {"written": 2, "known": 0, "failed": 1}
    before, after = (read_examples(tmp_path / name, COUNTER) for name in ("in.jsonl", "data.jsonl"))
    assert [(e.request, e.output_tokens, e.cut) for e in after] == [
        (e.request, e.output_tokens, e.cut) for e in before
    ]
    assert groups_of([example.keys for example in after]).tolist() == [0, 1]


@pytest.fixture
def endpoint(local_port):
    """An OpenAI server whose answers are as long as the prompt, and which fails now and then."""
    served = FastAPI()
    seen = []

    @served.post("/v1/chat/completions")
    async def answer(body: dict) -> dict:
        seen.append(body)
        text = body["messages"][-1]["content"]
        usage = {"prompt_tokens": 1, "completion_tokens": 1 if text == "bad" else len(text)}
        await asyncio.sleep(0.01)
        return {"choices": [{"finish_reason": "stop"}], "usage": None if text == "bad" else usage}

    server = uvicorn.Server(uvicorn.Config(served, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [local_port]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{local_port.getsockname()[1]}", seen
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def local_port():
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=64) as made:
        yield made


def test_sample_asks_a_running_endpoint_once_for_each_prompt(endpoint, tmp_path):
    url, seen = endpoint
    rows = [{"id": i, "prompt": "x" * (i + 1)} for i in range(12)] + [{"id": 99, "prompt": "bad"}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ("sample", "--data", tmp_path / "in.jsonl", "--out", tmp_path / "data.jsonl", "--url", url)
    first = run(*arguments, "--model", "m", "--max-tokens", 50, "--temperature", 0.5)
    assert json.loads(first.stdout) == {"written": 12, "known": 0, "failed": 1}
    assert {body["temperature"] for body in seen} == {0.5}
    again = run(*arguments, "--model", "m", "--max-tokens", 50)
    assert json.loads(again.stdout) == {"written": 0, "known": 12, "failed": 1}
    written = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    assert all(row["output_tokens"] == len(row["prompt"]) and row["max_tokens"] == 50 for row in written)


def test_sample_gives_up_on_an_endpoint_that_is_down(tmp_path, local_port):
    port = local_port.getsockname()[1]
    local_port.close()
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"prompt": f"p{i}"}) for i in range(60)))
    result = run(
        *("sample", "--data", tmp_path / "in.jsonl", "--out", tmp_path / "o.jsonl"),
        *("--url", f"http://127.0.0.1:{port}"),
    )
    assert "failed in a row; is it up?" in str(result.exception)
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "p"}))
    result = run(
        *("sample", "--data", tmp_path / "in.jsonl", "--out", tmp_path / "o.jsonl"),
        *("--url", f"http://127.0.0.1:{port}"),
    )
    assert "none of 1 requests was answered (last: ClientConnectorError" in str(result.exception)


def test_serve_does_not_listen_beyond_this_machine_unasked(features_folder, monkeypatch):
    served = []
    monkeypatch.setattr(uvicorn, "run", lambda _app, host, **_: served.append(host))
    refused = run("serve", "--model", features_folder, "--host", "0.0.0.0")
    assert "--host 0.0.0.0: others could use it" in str(refused.exception)
    for arguments in (("--host", "0.0.0.0", "--allow-anyone"), ("--host", "localhost"), ()):
        assert run("serve", "--model", features_folder, *arguments).exit_code == 0
    assert served == ["0.0.0.0", "localhost", "127.0.0.1"]

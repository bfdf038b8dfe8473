"""Decision receipts: what is in a line, that nothing waits for them, and what happens when they cannot go."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from block.decision_receipt import DecisionReceipt, read_receipts
from block.errors import ConfigError, ReceiptError
from block.operation import ReceiptSettings
from global_scheduler.fleet import Fleet
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.receipt import Receipt
from global_scheduler.receipt_writer import ReceiptWriter


@pytest.fixture
def metrics() -> SchedulerMetrics:
    return SchedulerMetrics(Fleet((), 1.0))


def written(metrics: SchedulerMetrics, outcome: str) -> float:
    line = f'block_receipts_total{{outcome="{outcome}"}} '.encode()
    return float(next(row for row in metrics.exposition()[0].splitlines() if row.startswith(line)).split()[1])


async def receipts_of(fleet, file: Path, wait_until, count: int) -> list[DecisionReceipt]:
    await wait_until(lambda: file.read_bytes().count(b"\n") == count)
    return list(read_receipts(file))


async def test_a_line_tells_candidates_choice_and_outcome(world, tmp_path, wait_until):
    file = tmp_path / "receipts.jsonl"
    fleet = await world(
        predictors=True, policy="block", estimator="oracle", receipts={"file": str(file)}, scenarios=1
    )
    fleet.predictors["a"].e2e_s = 2.0
    headers = {"x-request-id": "req-1", "x-block-output-tokens": "7"}
    await fleet.chat(stream=True, headers=headers, max_tokens=9)
    (receipt,) = await receipts_of(fleet, file, wait_until, 1)
    assert (receipt.id, receipt.path, receipt.model) == ("req-1", "/v1/chat/completions", "llama")
    assert receipt.fleet_id.startswith("req-1-")
    assert (receipt.policy, receipt.choice, receipt.ranking, receipt.instance) == ("block", "b", ("a",), "b")
    assert receipt.reason
    assert [each.name for each in receipt.candidates] == ["a", "b"]
    assert [each.prediction and each.prediction.e2e_s for each in receipt.candidates] == [2.0, 1.0]
    assert receipt.candidates[0].load is not None
    assert receipt.candidates[0].load.free_blocks == 100
    assert receipt.prediction is not None
    assert receipt.prediction.e2e_s == 1.0
    assert (receipt.expected_tokens, receipt.max_tokens, receipt.output_tokens) == (7, 9, 5)
    assert receipt.expected_by == "oracle"
    assert (receipt.outcome, receipt.status, receipt.attempts) == ("2xx", 200, 1)
    assert receipt.ttft_s is not None
    assert receipt.e2e_s is not None
    assert receipt.overhead_s is not None
    assert receipt.decision_s is not None
    assert 0 < receipt.decision_s < receipt.overhead_s < receipt.total_s
    assert 0 < receipt.ttft_s <= receipt.e2e_s <= receipt.total_s
    assert b"messages" not in file.read_bytes()
    assert b"hi" not in file.read_bytes()


async def test_what_never_was_decided_has_a_receipt_too(world, tmp_path, wait_until):
    file = tmp_path / "receipts.jsonl"
    fleet = await world(instances=1, receipts={"file": str(file)})
    await fleet.chat(model="no such model")
    fleet.instances["a"].behaviour = "die_first"
    await fleet.chat()
    unknown, failed = await receipts_of(fleet, file, wait_until, 2)
    assert (unknown.outcome, unknown.status, unknown.choice, unknown.candidates) == ("4xx", 404, None, ())
    assert (failed.outcome, failed.choice, failed.attempts) == ("5xx", "a", 1)


async def test_a_client_that_leaves_has_a_receipt_of_what_it_got(world, tmp_path, wait_until):
    file = tmp_path / "receipts.jsonl"
    fleet = await world(instances=1, receipts={"file": str(file)})
    fleet.instances["a"].behaviour = "slow_stream"
    body = {"model": "llama", "messages": [], "stream": True}
    async with fleet.http.stream("POST", f"{fleet.url}/v1/chat/completions", json=body) as answer:
        async for _ in answer.aiter_bytes():
            if fleet.instances["a"].written > 4:
                break
    (receipt,) = await receipts_of(fleet, file, wait_until, 1)
    assert (receipt.outcome, receipt.status) == ("gone", 200)
    assert receipt.output_tokens is not None
    assert receipt.output_tokens > 0


async def test_prompts_are_recorded_only_if_asked_for(world, tmp_path, wait_until, caplog):
    file = tmp_path / "receipts.jsonl"
    fleet = await world(instances=1, receipts={"file": str(file)}, record_prompts=True)
    body = b'{"model": "llama", "messages": [\n {"role": "user",\n "content": "my\\nwords"}\n]}'
    with caplog.at_level("INFO", logger="global_scheduler"):
        await fleet.http.post(f"{fleet.url}/v1/chat/completions", content=body)
        (receipt,) = await receipts_of(fleet, file, wait_until, 1)
        await wait_until(lambda: "words" in caplog.text)
    assert json.loads(bytes(receipt.prompt)) == [{"role": "user", "content": "my\nwords"}]
    (line,) = [one for record in caplog.records for one in record.message.splitlines() if "words" in one]
    assert json.loads(line.removeprefix("request "))["prompt"][0]["content"] == "my\nwords"


async def test_a_file_that_was_moved_away_is_opened_anew(world, tmp_path, wait_until):
    file, old = tmp_path / "receipts.jsonl", tmp_path / "receipts.jsonl.1"
    fleet = await world(instances=1, receipts={"file": str(file)})
    await fleet.chat(headers={"x-request-id": "before"})
    await receipts_of(fleet, file, wait_until, 1)
    file.rename(old)
    fleet.scheduler.app.renew()
    await wait_until(file.exists)
    await fleet.chat(headers={"x-request-id": "after"})
    (after,) = await receipts_of(fleet, file, wait_until, 1)
    (before,) = read_receipts(old)
    assert (before.id, after.id) == ("before", "after")


def test_too_many_are_dropped_and_counted_while_nothing_waits(tmp_path, metrics):
    writer = ReceiptWriter(ReceiptSettings(file=tmp_path / "r", queue=5), metrics)
    for number in range(8):  # its thread has not been started: nothing empties the queue
        writer.put(Receipt(str(number), "fleet"))
    assert written(metrics, "dropped") == 3
    writer.start()
    writer.close()
    assert [each.id for each in read_receipts(tmp_path / "r")] == list("01234")
    assert written(metrics, "written") == 5


def test_a_full_disk_costs_receipts_and_nothing_else(metrics, caplog):
    writer = ReceiptWriter(ReceiptSettings(file=Path("/dev/full")), metrics)
    writer.put(Receipt("a", "fleet"))
    writer.start()
    writer.close()
    assert written(metrics, "failed") == 1
    assert "No space left" in caplog.text


def test_an_end_does_not_wait_for_a_reader_that_does_not_read(tmp_path, metrics, monkeypatch, caplog):
    monkeypatch.setattr("global_scheduler.receipt_writer.CLOSE_S", 0.3)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = ReceiptWriter(ReceiptSettings(file=pipe), metrics)
    for number in range(3000):
        writer.put(Receipt(str(number), "fleet"))
    writer.start()
    writer.close()
    assert "could not be written in time" in caplog.text
    os.close(reader)  # and with it, the writer's thread ends


def test_a_place_that_cannot_be_written_is_said_at_the_start(tmp_path, metrics):
    with pytest.raises(ConfigError, match=r"settings.receipts.file = .*cannot be written"):
        ReceiptWriter(ReceiptSettings(file=tmp_path / "no folder" / "r"), metrics)


@pytest.mark.parametrize("line", [b"{}", b"no json", b'{"version": 99}'])
def test_a_foreign_line_is_named(tmp_path, line):
    file = tmp_path / "r"
    file.write_bytes(line + b"\n")
    with pytest.raises(ReceiptError, match="line 1"):
        list(read_receipts(file))


def test_a_line_that_is_being_written_is_left_out(tmp_path, metrics):
    writer = ReceiptWriter(ReceiptSettings(file=tmp_path / "r"), metrics)
    writer.put(Receipt("a", "fleet"))
    writer.start()
    writer.close()
    with (tmp_path / "r").open("ab") as file:
        file.write(b'{"version":1,"time')
    receipts: Iterator[DecisionReceipt] = read_receipts(tmp_path / "r")
    assert [each.id for each in receipts] == ["a"]

"""``block-exp simulate``, judged from outside: a plain loop around vLLM's own scheduler."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from exp.cli import main

ENGINE: dict[str, Any] = {
    "num_blocks": 40,
    "block_size": 16,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "max_model_len": 320,
    "prefix_caching": False,
    "policy": "fcfs",
    "base_s": 0.01,
    "per_token_s": 1e-4,
    "per_context_token_s": 1e-6,
}


@dataclass
class Files:
    """The three files of one run."""

    folder: Path
    engine: dict[str, Any] = field(default_factory=lambda: dict(ENGINE))
    arrivals: list[Any] = field(default_factory=list)

    def run(self, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The summary and the steps."""
        assert self.main() == 0
        summary = json.loads(capsys.readouterr().out.splitlines()[-1])
        return summary, self.steps()

    def steps(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "steps.jsonl").read_text().splitlines()]

    def main(self) -> int:
        lines = [line if isinstance(line, str) else json.dumps(line) for line in self.arrivals]
        (self.folder / "arrivals.jsonl").write_text("\n".join(lines) + "\n")
        (self.folder / "engine.json").write_text(json.dumps(self.engine))
        return self.call()

    def call(self, engine: str = "engine.json") -> int:
        paths = {"arrivals": "arrivals.jsonl", "engine": engine, "steps": "steps.jsonl"}
        arguments = [part for name, path in paths.items() for part in (f"--{name}", str(self.folder / path))]
        with pytest.raises(SystemExit) as caught:
            main(["simulate", *arguments])
        return int(caught.value.code or 0)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def request(name: Any = "a", **fields: Any) -> dict[str, Any]:
    return {"id": name, "arrival_s": 0.0, "prompt_tokens": 20, "output_tokens": 3, **fields}


def random_arrivals(seed: int, count: int) -> list[dict[str, Any]]:
    source = random.Random(seed)
    families = [[f"{family}-{place}" for place in range(12)] for family in "xyz"]
    return [
        request(
            f"r{source.randrange(100)}-{index}",
            arrival_s=round(source.uniform(0, 3), 2),
            prompt_tokens=source.randint(1, 200),
            output_tokens=source.randint(1, 110),
            priority=source.choice([0, 0, 1, 5]),
            block_hashes=source.choice(families)[: source.randint(0, 12)],
        )
        for index in range(count)
    ]


def plain_loop(engine: dict[str, Any], arrivals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """schedule() -> the step's time -> update_from_output(), as anyone would write it."""
    from vllm import SamplingParams

    from exp.virtual_engine import VirtualEngine, VirtualEngineSpec

    flags = {"enable_prefix_caching": engine["prefix_caching"], "scheduling_policy": engine["policy"]}
    limits = ("block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len")
    vllm = VirtualEngine(
        VirtualEngineSpec(
            num_gpu_blocks=engine["num_blocks"], flags=flags, **{name: engine[name] for name in limits}
        )
    )
    pending = sorted(arrivals, key=lambda each: each["arrival_s"])
    now_s, steps = 0.0, []
    while pending or vllm.scheduler.get_num_unfinished_requests():
        if not vllm.scheduler.get_num_unfinished_requests():
            now_s = max(now_s, pending[0]["arrival_s"])
        while pending and pending[0]["arrival_s"] <= now_s:
            each = pending.pop(0)
            shared = each["block_hashes"][: each["prompt_tokens"] // 16]
            prompt = [10**6 + crc32(key.encode()) for key in shared for _ in range(16)]
            prompt += [2 * 10**12 + crc32(each["id"].encode())] * (each["prompt_tokens"] - len(prompt))
            sampling = SamplingParams(max_tokens=each["output_tokens"], seed=crc32(each["id"].encode()))
            vllm.add(each["id"], prompt, sampling, arrival_time=each["arrival_s"], priority=each["priority"])
        output = vllm.schedule()
        tokens = dict(output.num_scheduled_tokens)
        context = sum(vllm.scheduler.requests[name].num_computed_tokens for name in tokens)
        lasts_s = (
            engine["base_s"]
            + sum(tokens.values()) * engine["per_token_s"]
            + engine["per_context_token_s"] * context
        )
        step = {"step": len(steps), "start_s": now_s, "end_s": now_s + lasts_s, "scheduled": tokens}
        vllm.finish_step()
        step["preempted"] = sorted(output.preempted_req_ids or ())
        step["free_blocks"] = vllm.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        now_s = step["end_s"]
        steps.append(step)
    return steps


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("prefix_caching", [False, True])
def test_every_step_is_what_a_plain_loop_around_vllm_records(
    policy: str, prefix_caching: bool, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.engine |= {"policy": policy, "prefix_caching": prefix_caching}
    files.arrivals = random_arrivals(3, 150)
    summary, steps = files.run(capsys)
    expected = plain_loop(files.engine, files.arrivals)
    for step in steps:
        step["preempted"].sort()
    assert steps == expected
    assert sum(len(step["preempted"]) for step in steps) == summary["preemptions"] > 10
    assert summary["steps"] == len(steps)
    assert summary["requests"] == 150
    first_s = min(each["arrival_s"] for each in files.arrivals)
    assert summary["makespan_s"] == pytest.approx(expected[-1]["end_s"] - first_s)


@pytest.mark.filterwarnings("default")
def test_a_step_that_only_preempts_is_a_step_of_no_tokens(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    """The less urgent request, first in the batch, needs a block and is its own victim."""
    files.engine |= {"policy": "priority", "num_blocks": 9, "max_num_batched_tokens": 256}
    files.arrivals = [
        request("late", prompt_tokens=63, output_tokens=10, priority=1, block_hashes=[]),
        request("soon", arrival_s=0.001, prompt_tokens=64, output_tokens=40, priority=0, block_hashes=[]),
    ]
    _, steps = files.run(capsys)
    assert steps == plain_loop(files.engine, files.arrivals)
    (empty,) = (step for step in steps if not step["scheduled"])
    assert empty["preempted"] == ["late"]
    assert empty["end_s"] - empty["start_s"] == pytest.approx(0.01)


def test_the_clock_follows_the_formula_and_waits_for_arrivals(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.arrivals = [request(7, arrival_s=5.0, prompt_tokens=70, output_tokens=2), request("b", arrival_s=9)]
    summary, steps = files.run(capsys)
    assert [step["scheduled"] for step in steps[:3]] == [{"7": 64}, {"7": 6}, {"7": 1}]
    assert steps[0]["start_s"] == 5.0
    assert steps[0]["end_s"] == 5.0 + (0.01 + 64 * 1e-4 + 1e-6 * 64)
    assert steps[1]["start_s"] == steps[0]["end_s"]
    assert steps[1]["end_s"] == steps[1]["start_s"] + (0.01 + 6 * 1e-4 + 1e-6 * 70)
    assert steps[3]["start_s"] == 9.0
    # Of 40 blocks vLLM's pool keeps one for itself.
    assert [step["free_blocks"] for step in steps[:3]] == [35, 34, 39]
    assert summary["makespan_s"] == pytest.approx(steps[-1]["end_s"] - 5.0)


@pytest.mark.parametrize(("block_size", "saved"), [(8, 64), (16, 64), (32, 64), (24, 48), (128, 0)])
def test_hashes_stand_for_sixteen_tokens_whatever_the_block_size(
    block_size: int, saved: int, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.engine |= {"block_size": block_size, "prefix_caching": True}
    shared = {"prompt_tokens": 65, "block_hashes": [1, 2, 3, 4, 5]}
    files.arrivals = [request("a", **shared), request("b", arrival_s=1.0, **shared)]
    _, steps = files.run(capsys)
    again = [step["scheduled"]["b"] for step in steps if "b" in step["scheduled"]]
    assert sum(again) - 2 == 65 - saved


def test_an_aborted_request_leaves_between_two_steps(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.arrivals = [request("a", output_tokens=100, abort_s=0.05), request("b", output_tokens=20)]
    _, steps = files.run(capsys)
    last = max(step["step"] for step in steps if "a" in step["scheduled"])
    assert steps[last]["start_s"] < 0.05 <= steps[last]["end_s"]
    assert steps[last]["free_blocks"] == 37


def test_no_requests_make_no_steps(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert files.run(capsys) == ({"requests": 0, "steps": 0, "preemptions": 0, "makespan_s": 0.0}, [])


def test_yaml_may_write_small_numbers_without_a_point(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.arrivals = [request()]
    _, expected = files.run(capsys)
    text = "\n".join(f"{name}: {value}" for name, value in (ENGINE | {"per_token_s": "1e-4"}).items())
    (files.folder / "engine.yaml").write_text(text)
    assert files.call("engine.yaml") == 0
    assert files.steps() == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_blocks": 0}, "num_blocks = 0"),
        ({"num_blocks": 40.5}, "num_blocks = 40.5"),
        ({"block_size": True}, "block_size = True"),
        ({"policy": "lottery"}, "policy = 'lottery'"),
        ({"prefix_caching": "yes"}, "prefix_caching = 'yes'"),
        ({"base_s": -1}, "base_s = -1"),
        ({"base_s": float("nan")}, "base_s = nan"),
        ({"per_token_s": "fast"}, "per_token_s = 'fast'"),
        ({"watermark": 1}, "watermark: unknown"),
        ({"max_num_seqs": None}, "max_num_seqs = None"),
        ({"max_num_seqs": 9999}, "max_num_seqs = 9999"),
    ],
)
def test_a_wrong_engine_is_one_line_and_exit_status_1(
    change: dict[str, Any], named: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.engine |= change
    files.arrivals = [request()]
    assert files.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"engine.json: {named}" in line


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ENGINE)[:-1] + ', "base_s": 1}',
        json.dumps(ENGINE, indent="\t")[:-1] + ',"base_s": 1}',
        "\n".join(f"{name}: {value}" for name, value in (*ENGINE.items(), ("base_s", 1))),
    ],
    ids=["json", "json with tabs", "yaml"],
)
def test_an_engine_setting_is_given_once(text: str, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.arrivals = [request()]
    files.run(capsys)
    (files.folder / "engine.yaml").write_text(text)
    assert files.call("engine.yaml") == 1
    assert "'base_s' is given twice" in capsys.readouterr().err


@pytest.mark.parametrize("name", ENGINE)
def test_every_engine_setting_is_needed(name: str, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    del files.engine[name]
    assert files.main() == 1
    assert f"engine.json: {name}: missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "not a line of JSON"),
        ("[1]", "line = [1]"),
        ('{"id": "\udcff"}'.encode("utf-8", "surrogateescape").decode("latin-1"), "missing"),
        (request("a"), "id = 'a': given before"),
        (request("b", arrival_s=-1), "arrival_s = -1"),
        (request("b", arrival_s=float("inf")), "arrival_s = inf"),
        (request("b", arrival_s="now"), "arrival_s = 'now'"),
        (request("b", prompt_tokens=0), "prompt_tokens = 0"),
        (request("b", prompt_tokens=2.5), "prompt_tokens = 2.5"),
        (request("b", prompt_tokens=320), "max_model_len = 320"),
        (request("b", output_tokens=-3), "output_tokens = -3"),
        (request("b", output_tokens=True), "output_tokens = True"),
        (request("b", priority="high"), "priority = 'high'"),
        (request("b", block_hashes=[1.5]), "block_hashes.0"),
        (request("b", block_hashes="abc"), "block_hashes = 'abc'"),
        (request("b", arrival_s=2.0, abort_s=1.0), "abort_s = 1.0"),
        (request("b", length=3), "length: unknown"),
        ({"id": "b"}, "arrival_s: missing"),
        (request(True), "id = True: must be a text or a whole number"),
        (request("b", block_hashes=["x", 1.5]), "block_hashes.1 = 1.5: must be a text or a whole number"),
        (request("\ud800"), "id = '\\ud800': must be text that UTF-8 can write"),
        ('{"id": "b", "arrival_s": 0, "arrival_s": 1}', "'arrival_s' is given twice"),
    ],
)
def test_a_wrong_arrival_is_one_line_that_names_its_place(
    line: Any, named: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.arrivals = [request("a"), line]
    assert files.main() == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "arrivals.jsonl:2: " in error
    assert named in error


def test_a_request_that_can_never_end_is_refused(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.engine["num_blocks"] = 4
    files.arrivals = [request("a", prompt_tokens=40, output_tokens=10)]
    assert files.main() == 1
    assert "need 4 blocks of 16, the engine has 3" in capsys.readouterr().err


def test_missing_files_and_unwritable_targets_are_named(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.arrivals = [request()]
    files.main()
    capsys.readouterr()
    assert files.call("nowhere.json") == 1
    assert "nowhere.json: cannot be read" in capsys.readouterr().err
    (files.folder / "steps.jsonl").unlink()
    (files.folder / "steps.jsonl").mkdir()
    assert files.call() == 1
    assert "steps.jsonl: cannot be written" in capsys.readouterr().err

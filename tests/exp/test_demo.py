from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.plan import ClusterPlan
from exp.demo import Demo, show
from exp.outcome import Outcome
from exp.prompt import PromptWriter
from exp.workload import TraceRequest, Workload


def demo(base_url: str, model: str, folder: Path, tokenizer: Path) -> Demo:
    """The demo on a cluster without processes: the server at ``base_url`` is already there."""
    plan = ClusterPlan(
        name="none",
        folder=folder / "none",
        socket_folder=folder / "none",
        processes=(),
        configs={},
        openai_base_url=base_url,
        model=folder,
        served_model_name=model,
        ready_timeout_s=1.0,
    )
    requests = tuple(TraceRequest(0.01 * i, 20, 3 + i) for i in range(4))
    return Demo(plan, Workload("test", requests), PromptWriter(tokenizer), Console(file=StringIO()))


async def run(fake_openai: Any, model: str, folder: Path, tokenizer: Path) -> list[Outcome]:
    return await demo(fake_openai.base_url, model, folder, tokenizer).run()


async def test_the_same_trace_is_sent_under_each_policy_in_turn(
    fake_openai: Any, tmp_path: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = await run(fake_openai, "good", tmp_path, tokenizer_file)
    sent = [headers["x-block-policy"] for headers in fake_openai.headers]
    assert sent == ["round_robin"] * 4 + ["block"] * 4
    prompts = [body["messages"][0]["content"] for body in fake_openai.bodies]
    assert sorted(prompts[:4]) == sorted(prompts[4:])
    assert len(set(prompts)) == 4

    assert show(outcomes, "test", Console()) == 0
    last_line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last_line["requests"], last_line["failed"]) == (8, 0)
    assert last_line["policies"]["block"]["requests"] == 4
    assert last_line["policies"]["block"]["output_tokens"] == 3 + 4 + 5 + 6


async def test_failures_are_counted_shown_and_make_the_exit_status_1(
    fake_openai: Any, tmp_path: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = await run(fake_openai, "breaks", tmp_path, tokenizer_file)
    assert show(outcomes, "test", Console()) == 1
    printed = capsys.readouterr().out.splitlines()
    assert "failed under round_robin: the server said: instance died" in printed
    assert json.loads(printed[-1])["failed"] == 8

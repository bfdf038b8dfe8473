"""The shipped cluster file by hand: up in the background, a request, its end; emulated and computed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from openai import OpenAI

from exp.local_model import make_local_model

ROOT = Path(__file__).resolve().parents[2]
COMPUTED = (
    "engine.block_size=32",
    "engine.num_gpu_blocks=256",
    "engine.max_model_len=1024",
    "engine.executor=real",
)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("model", "further"), [("llama-2-7b", ()), ("tiny-llama", COMPUTED)])
def test_the_shipped_cluster_serves_from_another_directory_and_ends(
    model: str,
    further: tuple[str, ...],
    tmp_path: Path,
    free_ports: Callable[[int], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    survivors: Callable[[list[psutil.Process]], list[psutil.Process]],
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def deploy(*arguments: str) -> str:
        argv = [sys.executable, "-m", "deploy.cli", *arguments]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    folder = make_local_model(model, ROOT / ".cache" / "models" / model)
    scheduler, engine, predictor = free_ports(3)
    settings = (
        *(f"scheduler_port={scheduler}", f"engine_port={engine}", f"predictor_port={predictor}"),
        *(f"run_dir={tmp_path}/run", f"engine.model={folder}", f"engine.served_model_name={model}"),
        *(f"scheduler.tokenizer={folder}/tokenizer.json", "scheduler.estimator=max_tokens", *further),
    )
    flags = [part for setting in settings for part in ("--set", setting)]
    try:
        deploy("up", str(ROOT / "config/cluster/local.yaml"), "--instances", "1", "--detach", *flags)
        [state] = json.loads(deploy("status", "local", "--json"))
        launcher = psutil.Process(state["launcher_pid"])
        family = [launcher, *launcher.children(recursive=True)]
        with OpenAI(base_url=state["openai_base_url"], api_key="none", max_retries=0) as client:
            answer = client.completions.with_raw_response.create(
                model=model, prompt="Hi", max_tokens=9, extra_body={"ignore_eos": True}
            )
        usage = answer.parse().usage
        assert usage is not None
        assert usage.completion_tokens == 9
        assert answer.headers.get("x-block-fallback") is None
    finally:
        print(deploy("down"))
    assert survivors(family) == []

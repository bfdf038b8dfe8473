"""Calibration beside a real vLLM server whose step times the predictor was told wrong."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from statistics import median

import pytest
from engine_server import LATENCY, EngineServer
from openai import AsyncOpenAI

from block.latency.calibration import CalibratedLatency
from block.latency.load import load_latency
from block.types import StepRecord
from predictor.calibration import FeedCalibration
from predictor.feed_reader import FeedReader

pytestmark = pytest.mark.engine
TRUE = load_latency(LATENCY)
HALF = tuple(seconds / 2 for seconds in TRUE.kernel.token_seconds)


async def _ask(client: AsyncOpenAI, model: str, number: int) -> None:
    prompt = f"{number} tell me more about it " * (3 + 8 * (number % 5))
    await client.completions.create(model=model, prompt=prompt, max_tokens=80 + 10 * (number % 4))


async def test_a_table_twice_too_fast_heals_on_live_steps(vllm_server: EngineServer) -> None:
    calibration = FeedCalibration(CalibratedLatency("half", replace(TRUE.kernel, token_seconds=HALF)))
    errors: list[float] = []
    steps: list[StepRecord] = []

    def learn() -> None:
        for record in reader.mirror.held.clock.finished_steps:
            errors.append(abs(calibration.current.seconds(record.shape) / record.duration_s - 1))
            steps.append(record)
        calibration.notice(reader.mirror.held)

    reader = FeedReader(vllm_server.feed, on_change=learn)
    following = asyncio.create_task(reader.follow())
    async with AsyncOpenAI(base_url=f"{vllm_server.url}/v1", api_key="none", max_retries=0) as client:
        for _ in range(3):
            async with asyncio.TaskGroup() as group:
                for number in range(12):
                    group.create_task(_ask(client, vllm_server.model, number))
                    await asyncio.sleep(0.05)
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    assert len(steps) > 250
    assert median(errors[:8]) > 0.3
    # The medians judge the model; single steps may be late on a busy machine.
    assert median(errors[-100:]) < 0.03
    off = [calibration.current.seconds(r.shape) / TRUE.seconds(r.shape) - 1 for r in steps[-100:]]
    assert abs(median(off)) < 0.03

"""Whole servers: a real forward pass is recorded, and what was recorded is served without it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from engine_server import EngineServer, running_server
from openai import AsyncOpenAI

from block.latency.journal import pack_from_journal
from block.latency.oracle import StepOracle
from block.latency.pack import StepPack, load_pack, save_pack

pytestmark = [pytest.mark.engine, pytest.mark.slow]

RECORDER = "block.vllm_plugin.recorder.RecordingMultiprocExecutor"
EMULATOR = "block.vllm_plugin.recorder.RecordingEmulatedExecutor"
SYNC = "vllm.v1.core.sched.scheduler.Scheduler"
ASYNC = "vllm.v1.core.sched.async_scheduler.AsyncScheduler"
# The smallest block that vLLM's CPU attention takes.
FLAGS = {"--block-size": "32", "--num-gpu-blocks-override": "300", "--max-num-seqs": "16"}
OUTPUT_TOKENS = 120


async def load(server: EngineServer) -> None:
    """Ten requests of different lengths, one after the other joining."""
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        async def ask(number: int) -> None:
            await asyncio.sleep(0.15 * number)
            await client.completions.create(
                model=server.model,
                prompt=[5 + number] * (30 + 70 * number),
                max_tokens=OUTPUT_TOKENS,
                extra_body={"ignore_eos": True},
            )

        await asyncio.gather(*(ask(number) for number in range(10)))


def recorded(
    model: Path, journal: Path, executor: str, scheduler: str, settings: dict[str, object]
) -> StepPack:
    flags = {**FLAGS, "--distributed-executor-backend": executor, "--scheduler-cls": scheduler}
    settings = {**settings, "record": {"journal": str(journal)}}
    with running_server(model, settings, flags) as server:
        asyncio.run(load(server))
    return pack_from_journal(journal)


@pytest.fixture(scope="module")
def real(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of vLLM's CPU backend; its server was killed, not asked to end."""
    folder = tmp_path_factory.mktemp("real")
    save_pack(folder / "tiny.npz", recorded(tiny_model, folder / "journal", RECORDER, SYNC, {}))
    return folder / "tiny.npz"


def test_a_real_forward_pass_is_recorded(real: Path) -> None:
    pack = load_pack(real)
    assert pack.header.executor == "MultiprocExecutor"
    assert pack.header.device.startswith("cpu")
    assert not pack.header.async_scheduling
    assert pack.header.kv_blocks == 300
    assert pack.decode_tokens.sum() >= 10 * (OUTPUT_TOKENS - 1)
    assert pack.prefill_tokens.sum() == sum(30 + 70 * number for number in range(10))
    assert (pack.duration_s > 1e-4).all()
    chunks = pack.prefill_tokens > 200
    assert np.median(pack.duration_s[chunks]) > 2 * np.median(pack.duration_s[pack.prefill_tokens == 0])
    assert np.isfinite(pack.host_s).mean() > 0.8
    assert np.nanmedian(pack.host_s) < np.median(pack.duration_s)


@pytest.mark.parametrize("scheduler", [SYNC, ASYNC])
def test_what_was_recorded_is_served(tiny_model: Path, real: Path, tmp_path: Path, scheduler: str) -> None:
    settings: dict[str, object] = {"emulation": {"latency": str(real)}}
    again = recorded(tiny_model, tmp_path / "journal", EMULATOR, scheduler, settings)
    first = load_pack(real)
    assert again.header.async_scheduling is (scheduler == ASYNC)
    assert again.decode_tokens.sum() == pytest.approx(first.decode_tokens.sum(), abs=20)
    # What is served is a sample of what was recorded, slow and fast moments included.
    oracle = StepOracle(first, seed=1)
    expected_s = sum(oracle.mean(shape).seconds for shape in again.shapes())
    assert again.duration_s.sum() == pytest.approx(expected_s, rel=0.3)


async def test_two_devices_structured_output_and_drawn_lengths(llama_model: Path) -> None:
    emulation = {
        "latency": str(Path(__file__).parents[3] / "config" / "packs" / "a100-80-sxm-llama-2-7b.npz"),
        "allow": ["tensor_parallel"],
        "output_lengths": [[0.1, 5], [0.9, 40]],
    }
    flags = {
        "--load-format": "dummy",
        "--distributed-executor-backend": "block.vllm_plugin.emulated_executor.EmulatedExecutor",
        "--tensor-parallel-size": "2",
    }
    with running_server(llama_model, {"emulation": emulation}, flags) as server:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            asked = (
                client.completions.create(
                    model=server.model, prompt=f"{number} words", max_tokens=60, logprobs=3
                )
                for number in range(20)
            )
            answers = await asyncio.gather(*asked)
            lengths = {answer.usage.completion_tokens for answer in answers}
            assert len(lengths) > 8
            assert max(lengths) <= 60
            for answer in answers:
                logprobs = answer.choices[0].logprobs
                assert len(logprobs.token_logprobs) == answer.usage.completion_tokens
                assert all(value <= 0 for value in logprobs.token_logprobs)
            schema = {
                "type": "object",
                "properties": {"size": {"enum": ["small", "large"]}},
                "required": ["size"],
                "additionalProperties": False,
            }
            shaped = await client.chat.completions.create(
                model=server.model,
                messages=[{"role": "user", "content": "hi"}],
                max_tokens=60,
                response_format={"type": "json_schema", "json_schema": {"name": "size", "schema": schema}},
            )
            assert '"size"' in shaped.choices[0].message.content
        assert "KV cache size: 118," in server.log.read_text(), "the pack's 7393 blocks of 16 tokens"

"""What emulating and recording cost an engine, measured on vLLM's own scheduler and the real executors.

An engine full of decoding requests is driven as vLLM's engine core drives it, without and with overlap.
CPU figures are per step: of the executor's two calls and of the timer's thread (the watched last stretch
of each wait included), and of the recorder. Drift is how long after its deadline a step ends. Run as
``python -m exp.emulation_cost``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.kv_cache_interface import KVCacheConfig

from block.latency.oracle import StepOracle
from block.latency.pack import load_pack
from block.types import BatchShape
from block.vllm_plugin.recorder import RecordingEmulatedExecutor
from exp.feed_cost import Stopwatch
from exp.local_model import make_local_model
from exp.timing import Timing
from exp.virtual_engine import VirtualEngine, VirtualEngineSpec

ROOT = Path(__file__).resolve().parent.parent
PACK = ROOT / "config" / "packs" / "a30-llama-2-7b.npz"
MODEL = ROOT / ".cache" / "models" / "llama-2-7b"
BACKEND = "block.vllm_plugin.recorder.RecordingEmulatedExecutor"
PROMPT_TOKENS = 8
MICROSECONDS = 1e6
SCHEDULERS = {
    False: "vllm.v1.core.sched.scheduler.Scheduler",
    True: "vllm.v1.core.sched.async_scheduler.AsyncScheduler",
}


class MeasuredServing:
    """One engine of so many running requests on the emulated executor, recorded."""

    def __init__(self, running: int, steps: int, overlap: bool, journal: Path) -> None:
        self._overlap = overlap
        self._engine = _engine(running, steps, overlap)
        self._executor = _executor(running, overlap, journal)
        self._calls = Stopwatch(self._executor, "execute_model", "sample_tokens")
        self._recorder = Stopwatch(self._executor._recorder, "submitted", "ready", "write")

    def run(self) -> dict[str, float]:
        """Serve until every request is done; returns microseconds per step."""
        steps = self._serve()
        timer_s = _cpu_s(self._executor._timer._thread)
        lateness_us = np.array(self._executor._timer.lateness_s()) * MICROSECONDS
        self._executor.shutdown()
        self._engine.close()
        # Without overlap the recorder writes within the executor's calls, with it on the timer's thread.
        whole_s = self._calls.spent_s + timer_s - self._recorder.spent_s
        return {
            "steps": steps,
            "emulation_us": round(whole_s / steps * MICROSECONDS, 1),
            "recorder_us": round(self._recorder.spent_s / steps * MICROSECONDS, 1),
            "drift_p50_us": round(float(np.percentile(lateness_us, 50)), 1),
            "drift_p99_us": round(float(np.percentile(lateness_us, 99)), 1),
            "drift_max_us": round(float(lateness_us.max()), 1),
        }

    def _serve(self) -> int:
        scheduler, queue, steps = self._engine.scheduler, deque[tuple[Any, Any]](), 0
        while scheduler.has_requests() or queue:
            if scheduler.has_requests():
                queue.append(self._submit())
                steps += bool(queue[-1][0].total_num_scheduled_tokens)
                if self._overlap and len(queue) < 2 and queue[-1][0].total_num_scheduled_tokens:
                    continue
            output, future = queue.popleft()
            tokens = future.result()
            scheduler.update_from_output(output, tokens or self._executor.sample_tokens(None))
        return steps

    def _submit(self) -> tuple[Any, Any]:
        output = self._engine.scheduler.schedule()
        future = self._executor.execute_model(output, non_block=True)
        if self._overlap and output.total_num_scheduled_tokens:
            future = self._executor.sample_tokens(None, non_block=True)
        return output, future


def oracle_us(pack: Path) -> float:
    """CPU microseconds of one sample, median over shapes that have been asked for before."""
    oracle = StepOracle(load_pack(pack), seed=0)
    shapes = [BatchShape(0, n, 200 * n, 0, n) for n in range(1, 48)]

    def ask() -> None:
        for shape in shapes:
            oracle.sample(shape)

    return round(Timing.of(ask, 200).p50_ms * 1e3 / len(shapes), 2)


def _engine(running: int, steps: int, overlap: bool) -> VirtualEngine:
    spec = VirtualEngineSpec(
        scheduler=SCHEDULERS[overlap],
        asynchronous=overlap,
        num_gpu_blocks=running * ((PROMPT_TOKENS + steps) // 16 + 2),
        max_num_seqs=running,
        max_num_batched_tokens=512,
    )
    engine = VirtualEngine(spec)
    for index in range(running):
        engine.add(f"request-{index}", [5] * PROMPT_TOKENS, SamplingParams(max_tokens=steps, ignore_eos=True))
    return engine


def _executor(running: int, overlap: bool, journal: Path) -> Any:
    settings = {"emulation": {"latency": str(PACK)}, "record": {"journal": str(journal)}}
    config = EngineArgs(
        model=str(make_local_model("llama-2-7b", MODEL)),
        load_format="dummy",
        distributed_executor_backend=BACKEND,
        scheduler_cls=SCHEDULERS[overlap],
        additional_config={"block": settings},
        block_size=16,
        max_num_seqs=running,
        max_num_batched_tokens=512,
    ).create_engine_config()
    executor = RecordingEmulatedExecutor(config)
    executor.initialize_from_config([KVCacheConfig(num_blocks=1061, kv_cache_tensors=[], kv_cache_groups=[])])
    return executor


def _cpu_s(thread: threading.Thread) -> float:
    """CPU seconds of a running thread so far."""
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0))


def main(arguments: list[str] | None = None) -> int:
    """Print a table, then all figures as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m exp.emulation_cost", description=__doc__)
    parser.add_argument("--running", type=int, default=48, help="running requests")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each run, some 30 ms each")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {"running": options.running, "oracle_us": oracle_us(PACK)}
    for name, overlap in (("sync", False), ("async", True)):
        with tempfile.TemporaryDirectory() as folder:
            serving = MeasuredServing(options.running, options.steps, overlap, Path(folder) / "journal")
            results[name] = serving.run()
    table = Table("scheduling", *results["sync"], title=f"One oracle sample: {results['oracle_us']} us")
    for name in ("sync", "async"):
        table.add_row(name, *(str(value) for value in results[name].values()))
    Console(width=120).print(table)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())

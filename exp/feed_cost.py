"""What the state feed costs an engine, measured on vLLM's own scheduler in virtual time.

Two equal engines decode side by side, one with the feed and a subscribed reader, one without; their
turns alternate so that both see the same machine. All figures are CPU time per step: of the engine's
thread inside the feed's hooks, of the feed's own thread, and, as a cross-check that is as noisy as the
machine, the difference of the two engines in ``schedule`` and ``update_from_output`` altogether. Run as
``python -m exp.feed_cost``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import zmq
from rich.console import Console
from rich.table import Table
from vllm import SamplingParams

from block.latency.table import TableLatency
from block.types import BatchShape
from exp.virtual_engine import VirtualEngine, VirtualEngineSpec

LATENCY = Path(__file__).resolve().parent.parent / "config" / "latency" / "a30-llama-2-7b.yaml"
SCHEDULERS = {
    "plain": "vllm.v1.core.sched.async_scheduler.AsyncScheduler",
    "feed": "block.vllm_plugin.scheduler.AsyncFeedScheduler",
}
FEED_HOOKS = ("step_scheduled", "step_ended", "outputs_processed")
PROMPT_TOKENS = 64
STEPS_PER_TURN = 50
TURNS = 20
MICROSECONDS = 1e6


class Stopwatch:
    """CPU time of the calling thread inside some methods of one object."""

    def __init__(self, target: Any, *methods: str) -> None:
        self.spent_s = 0.0
        for name in methods:
            setattr(target, name, self._timed(getattr(target, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            started_s = time.thread_time()
            result = method(*args, **options)
            self.spent_s += time.thread_time() - started_s
            return result

        return timed


class MeasuredEngine:
    """An engine full of decoding requests, and what its parts spent per step, turn by turn."""

    def __init__(self, scheduler: str, running: int, address: str) -> None:
        self.engine = _full_engine(scheduler, running, address)
        self._whole = Stopwatch(self.engine.scheduler, "schedule", "update_from_output")
        feed = getattr(self.engine.scheduler, "block_feed", None)
        self._hooks = Stopwatch(feed, *FEED_HOOKS) if feed else None
        self.whole_s: list[float] = []
        self.hooks_s: list[float] = []
        self.feed_thread_s: list[float] = []

    def turn(self, reader: zmq.Socket[bytes]) -> None:
        """Run some steps and wait until the feed has sent them."""
        before = self._readings()
        for _ in range(STEPS_PER_TURN):
            self.engine.schedule()
            self.engine.finish_step()
        _drain(reader)
        after = self._readings()
        for series, start, end in zip(self._series(), before, after, strict=True):
            series.append((end - start) / STEPS_PER_TURN)

    def _readings(self) -> tuple[float, float, float]:
        hooks_s = self._hooks.spent_s if self._hooks else 0.0
        return self._whole.spent_s, hooks_s, _feed_thread_s()

    def _series(self) -> tuple[list[float], list[float], list[float]]:
        return self.whole_s, self.hooks_s, self.feed_thread_s


def measure(running: int, address: str) -> dict[str, float]:
    """CPU microseconds per step at ``running`` decoding requests, and their share of an A30's step."""
    engines = {name: MeasuredEngine(scheduler, running, address) for name, scheduler in SCHEDULERS.items()}
    with _reader(address) as reader:
        for _ in range(TURNS):
            for engine in engines.values():
                engine.turn(reader)
    for engine in engines.values():
        engine.engine.close()
    shape = BatchShape(0, running, running * (PROMPT_TOKENS + STEPS_PER_TURN), 0, running)
    return _summary(running, engines, TableLatency.load(LATENCY).seconds(shape))


def _summary(running: int, engines: dict[str, MeasuredEngine], step_s: float) -> dict[str, float]:
    feed, plain = engines["feed"], engines["plain"]
    difference_s = median(a - b for a, b in zip(feed.whole_s, plain.whole_s, strict=True))
    engine_s, thread_s = median(feed.hooks_s), median(feed.feed_thread_s)
    return {
        "running": running,
        "engine_us_per_step": round(engine_s * MICROSECONDS, 1),
        "feed_thread_us_per_step": round(thread_s * MICROSECONDS, 1),
        "difference_us_per_step": round(difference_s * MICROSECONDS, 1),
        "scheduler_us_per_step": round(median(plain.whole_s) * MICROSECONDS, 1),
        "step_ms": round(step_s * 1e3, 2),
        "share_of_step": round(engine_s / step_s, 5),
        "share_with_thread": round((engine_s + thread_s) / step_s, 5),
    }


def _full_engine(scheduler: str, running: int, address: str) -> VirtualEngine:
    tokens = PROMPT_TOKENS + (TURNS + 2) * STEPS_PER_TURN
    spec = VirtualEngineSpec(
        scheduler=scheduler,
        asynchronous=True,
        num_gpu_blocks=running * (tokens // 16 + 2),
        max_num_seqs=running,
        max_num_batched_tokens=max(2048, running),
        flags={"additional_config": {"block": {"feed": {"address": address}}}},
    )
    engine = VirtualEngine(spec)
    for index in range(running):
        engine.add(f"request-{index}", [5] * PROMPT_TOKENS, SamplingParams(max_tokens=tokens))
    while len(engine.scheduler.running) < running or engine.scheduler.running[-1].is_prefill_chunk:
        engine.step()
    return engine


def _feed_thread_s() -> float:
    """CPU seconds of the feed's thread so far."""
    (thread,) = (item for item in threading.enumerate() if item.name == "state-feed")
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0))


def _drain(reader: zmq.Socket[bytes]) -> None:
    """Read until the feed is quiet, so that no turn works off another's messages."""
    while reader.poll(50):
        reader.recv()


@contextmanager
def _reader(address: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(address)
        _drain(socket)
        yield socket


def main(arguments: list[str] | None = None) -> int:
    """Print a table, then the last size's figures as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m exp.feed_cost", description=__doc__)
    parser.add_argument("--running", type=int, nargs="+", default=[48, 256], help="running requests")
    options = parser.parse_args(arguments)
    results = []
    for running in options.running:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(running, f"ipc://{folder}/feed"))
    table = Table(*results[-1], title="CPU cost of the state feed")
    for result in results:
        table.add_row(*(str(value) for value in result.values()))
    Console(width=200).print(table)
    print(json.dumps(results[-1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a what-if costs, and what stands around it: a decision, plain simulation, a predictor's start."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from block.latency.table import TableLatency
from block.lengths import scenario_levels
from block.simulation.background import Background
from block.simulation.columns import EngineColumns
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.expectation import GRID_SHARE, MOST
from block.simulation.memory import Ints
from block.simulation.run import run, run_stepwise
from block.simulation.what_if import Newcomer, WhatIf
from block.types import EngineLimits, EngineState
from exp.bench_predictor import BusyPredictor
from exp.bench_state import NEWCOMER, BenchState
from exp.timing import Timing
from exp.workload import WorkloadSpec, generated
from vidur_adapter.vidur_checkout import VidurCheckout
from vidur_adapter.vidur_replica import VidurReplica

ROOT = Path(__file__).resolve().parent.parent
LATENCY = ROOT / "config" / "latency" / "a30-llama-2-7b.yaml"

MAIN = BenchState(running=50, waiting=50, tokens_left=300)
UNEQUAL = BenchState(running=50, waiting=50, tokens_left=300, spread=0.9)
LARGE = BenchState(running=256, waiting=1000, tokens_left=300)
INSTANCES, SCENARIOS = 16, 8

# The paper's instance at a load that keeps about 26 requests in its batch.
PAPER_ENGINE = EngineLimits(
    block_size=16, total_blocks=1052, max_num_seqs=48, max_num_batched_tokens=512, max_model_len=4096
)
PAPER_RATE_PER_S = 2.5
PAPER_REQUESTS = 5000
_VIDUR_STEP_S = 0.033

_BETWEEN_QUESTIONS_S = 0.003


@dataclass
class WhatIfResult:
    """Rows for people, figures for JSON."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add_timing(self, name: str, key: str, timing: Timing, target: str = "") -> None:
        """A row of milliseconds; the JSON gets ``<key>p50_ms`` and its like."""
        self.rows.append((name, f"{timing.p50_ms:.4f}", f"{timing.p99_ms:.4f}", target))
        self.figures[f"{key}p50_ms"] = round(timing.p50_ms, 5)
        self.figures[f"{key}p99_ms"] = round(timing.p99_ms, 5)
        self.figures[f"{key}wall_p50_ms"] = round(timing.wall_p50_ms, 5)
        self.figures[f"{key}wall_p99_ms"] = round(timing.wall_p99_ms, 5)

    def add_figure(self, name: str, key: str, value: float, target: str = "") -> None:
        """A row with one figure."""
        self.rows.append((name, f"{value:,.0f}" if value >= 1000 else f"{value:.2f}", "", target))
        self.figures[key] = round(value, 3)

    def table(self) -> Table:
        """For people."""
        table = Table("", "p50 or value", "p99", "target", title="What-if, one core, CPU milliseconds")
        for row in self.rows:
            table.add_row(*row)
        return table

    def summary(self) -> dict[str, Any]:
        """For the last line."""
        return {"running": MAIN.running, "waiting": MAIN.waiting, **self.figures}


@dataclass(frozen=True)
class WhatIfBench:
    """All measurements, in order."""

    calls: int
    vidur: VidurCheckout | None

    def run(self, console: Console) -> WhatIfResult:
        """Measure; what is going on is shown while it does."""
        result = WhatIfResult()
        for name, measure in self._measurements():
            with console.status(name):
                measure(result)
        return result

    def _measurements(self) -> Sequence[tuple[str, Callable[[WhatIfResult], None]]]:
        return (
            ("what-ifs", self._what_ifs),
            (f"{INSTANCES} instances x {SCENARIOS} scenarios", self._decision),
            ("plain simulation", self._simulation),
            ("a predictor at work", self._predictor),
            ("a predictor's start", self._first_answer),
            ("Vidur", self._vidur),
        )

    def _what_ifs(self, result: WhatIfResult) -> None:
        result.add_timing(
            f"what-if: 50 running ({MAIN.tokens_left} tokens left each), 50 waiting",
            "",
            self._timed(MAIN, self.calls),
            "0.1, 0.3",
        )
        result.add_timing(
            "what-if: the same, 30 to 570 tokens left", "unequal_", self._timed(UNEQUAL, self.calls)
        )
        result.add_timing(
            "what-if: 256 running, 1,000 waiting",
            "large_",
            self._timed(LARGE, max(20, self.calls // 20)),
            "5",
        )
        columns, model = EngineColumns.of(MAIN.build()), _model()
        result.add_timing(
            "laying out a new state of 50 + 50 (once per step)",
            "layout_",
            Timing.of(lambda: WhatIf(columns, model), max(20, self.calls // 10)),
        )

    def _timed(self, bench_state: BenchState, calls: int) -> Timing:
        what_if, newcomer = WhatIf(bench_state.build(), _model()), Newcomer.certain(NEWCOMER)
        return Timing.of(lambda: what_if.ask(newcomer), calls)

    def _decision(self, result: WhatIfResult) -> None:
        """With nothing else expected, and as predictors are shipped: counting on more arrivals.

        The newcomer's own times are what most policies ask for; harm takes a baseline and longer runs.
        """
        for background, expecting, key in (
            (None, "", ""),
            (_expected(), ", arrivals expected", "expecting_"),
        ):
            self._decide(result, f"own times{expecting}", f"times_{key}", background, harm=False)
            self._decide(result, f"times and harm{expecting}", key, background, harm=True)

    def _decide(
        self, result: WhatIfResult, asked: str, key: str, background: Background | None, *, harm: bool
    ) -> None:
        """Asks on states that are laid out, each time a little later, and on states new to all predictors.

        A mirror holds its state as columns.
        """
        built = [BenchState(50, 50, 300, 0.9, seed).build() for seed in range(INSTANCES)]
        states = [(EngineColumns.of(state), _scenario_lengths(state)) for state in built]
        model, outputs = _model(), tuple(range(100, 500, 400 // SCENARIOS))
        known = [WhatIf(state, model, rows, background=background) for state, rows in states]
        times_s = itertools.cycle(np.arange(0.0, 0.02, _BETWEEN_QUESTIONS_S).tolist())

        def decide() -> None:
            newcomer = Newcomer(replace(NEWCOMER, arrival_s=next(times_s)), outputs)
            for each in known:
                each.ask(newcomer, harm=harm)

        def decide_anew() -> None:
            for state, rows in states:
                WhatIf(state, model, rows, background=background).ask(Newcomer(NEWCOMER, outputs), harm=harm)

        calls = max(20, self.calls // 50)
        name = f"decision: {INSTANCES} instances x {SCENARIOS} scenarios, {asked}"
        result.add_timing(name, f"decision_{key}", Timing.of(decide, calls), "10")
        result.figures[f"decision_{key}baselines_per_state"] = max(each.baselines for each in known)
        anew = Timing.of(decide_anew, calls)
        result.add_timing(f"{name}, all states new", f"decision_{key}new_", anew, "10")

    def _predictor(self, result: WhatIfResult) -> None:
        for scenarios in (1, SCENARIOS):
            steps = max(40, self.calls // 5)
            answers = BusyPredictor(_model(), steps, scenarios).answers()
            timing = Timing.of(partial(next, answers), steps - 5)
            result.add_timing(
                f"a step's message read and a question answered: 50 running, 100 waiting, "
                f"{scenarios} scenario{'s' * (scenarios > 1)}, lengths as quantiles",
                f"predictor_{scenarios}_",
                timing,
            )

    def _simulation(self, result: WhatIfResult) -> None:
        spec = WorkloadSpec(PAPER_REQUESTS, PAPER_RATE_PER_S, ROOT)
        requests = [
            SimulatedRequest(f"r{index}", request.arrival_s, request.prompt_tokens, request.output_tokens)
            for index, request in enumerate(generated(spec).requests)
        ]
        rates = {name: _steps_per_s(requests, how) for name, how in (("", run), ("stepwise_", run_stepwise))}
        seats = sum(request.output_tokens for request in requests)
        batch = seats / rates[""][1]
        result.add_figure(
            f"steps/s, leaping, {batch:.1f} decodes per batch", "steps_per_s", rates[""][0], "1,000,000"
        )
        result.add_figure("steps/s, one by one", "stepwise_steps_per_s", rates["stepwise_"][0])
        result.figures["decodes_per_batch"] = round(batch, 2)

    def _first_answer(self, result: WhatIfResult) -> None:
        command = [sys.executable, "-m", "exp.first_answer"]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        started_s = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, cwd=ROOT, text=True)
        elapsed_s = time.perf_counter() - started_s
        memory_mb = json.loads(done.stdout)["rss_mb"]
        result.add_figure("predictor process: start to first answer, s", "start_to_answer_s", elapsed_s, "3")
        result.add_figure("predictor process: memory, MB", "predictor_rss_mb", memory_mb, "200")

    def _vidur(self, result: WhatIfResult) -> None:
        if self.vidur is None:
            result.notes.append("Vidur: not measured; name a checkout with --vidur DIR")
            return
        vidur = self.vidur
        timing = Timing.of(lambda: _ask_vidur(vidur), 20)
        described = "Sarathi scheduler, bare loop, constant step time"
        result.add_timing(f"the same what-if on Vidur ({described})", "vidur_", timing)
        ratio = timing.p50_ms / result.figures["p50_ms"]
        result.add_figure("Vidur's time / ours", "vidur_ratio", ratio, "300")


def _ask_vidur(checkout: VidurCheckout) -> float:
    """When the newcomer's response ends; stops there and runs no baseline, so it is a lower bound."""
    state = MAIN.build()
    replica = VidurReplica(checkout, state.limits, lambda _: _VIDUR_STEP_S)
    replica.hold(state, [request.max_tokens for request in (*state.running, *state.waiting)])
    newcomer = SimulatedRequest("newcomer", 0.0, NEWCOMER.prompt_tokens, NEWCOMER.output_tokens)
    replica.run_until([replica.add(newcomer)])
    return replica.now_s


def _expected() -> Background:
    """As a predictor expects them: at the paper's rate per instance, of its mean lengths, as many as ever."""
    arrival_s = (np.arange(MOST, dtype=np.float64) + 0.5) / PAPER_RATE_PER_S
    prompts, outputs = np.full(MOST, 246, np.int64), np.full(MOST, 326, np.int64)
    return Background(arrival_s, prompts, outputs, grid_s=GRID_SHARE / PAPER_RATE_PER_S)


def _model() -> TableLatency:
    return TableLatency.load(LATENCY)


def _steps_per_s(requests: list[SimulatedRequest], how: Callable[..., int]) -> tuple[float, int]:
    """Best of three runs: steps per CPU second, and steps."""
    rates, steps = [], 0
    for _ in range(3):
        simulation = EngineSimulation(PAPER_ENGINE, _model().kernel, requests)
        call = partial(how, simulation.memory.s, simulation.memory.f)
        seconds = Timing.of(call, 1, warm=0).p50_ms / 1e3
        steps = simulation.step_count
        rates.append(steps / seconds)
    return float(np.max(rates)), steps


def _scenario_lengths(state: EngineState) -> Ints:
    """(scenarios, requests): what is left of each response, halved to doubled, in the request's own order."""
    columns = []
    for request in (*state.running, *state.waiting):
        left = request.max_tokens - request.generated_tokens
        factors = 2.0 ** (2 * scenario_levels(request.id, SCENARIOS) - 1)
        columns.append(request.generated_tokens + np.rint(left * factors))
    return np.array(columns).T.astype(np.int64)

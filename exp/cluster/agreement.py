"""The simulated cluster beside real vLLM servers with emulated GPUs: one trace through both.

What the simulation cannot know, the time that HTTP, tokenisation and the router take on this machine, is
measured on requests that meet nobody, and goes into the simulation as one constant. All else is as the
cluster file says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from block.config import ClusterConfig
from block.errors import StateError
from block.latency.load import load_latency
from block.simulation.memory import Floats
from deploy.local import LocalCluster
from deploy.plan import ClusterPlan
from exp.client import LoadClient
from exp.cluster.load import known_load
from exp.cluster.result import ClusterResult
from exp.cluster.simulation import simulate_cluster
from exp.cluster.spec import AT_ONCE, ClusterSpec, Delays, SimulatedInstance
from exp.outcome import Outcome
from exp.prompt import PromptWriter
from exp.target import Target
from exp.workload import TraceRequest, Workload

_ALONE = 16
"""Requests that meet nobody, to measure what is outside of the engines by."""
_ALONE_GAP_S = 0.7
_ALONE_LENGTHS = (120, 8)

_DECISION_S = 0.002
"""Of the time outside; the rest counts as the way to the engine."""

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Agreement:
    """One policy's figures from both."""

    policy: str
    requests: int
    failed: int
    outside_s: float
    """Measured, and given to the simulation."""
    emulated: dict[str, float]
    """Mean and P99 of TTFT and E2E, in seconds."""
    simulated: dict[str, float]
    lateness_s: float
    """Of the client at its worst: a busy machine."""
    same_instance: float
    """Share of the requests that went to the same instance in both."""

    @property
    def errors(self) -> dict[str, float]:
        """Simulated against emulated, relative."""
        return {name: self.simulated[name] / value - 1 for name, value in self.emulated.items()}

    @property
    def worst(self) -> float:
        """The largest of the errors."""
        return max(abs(error) for error in self.errors.values())

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "policy": self.policy,
            "requests": self.requests,
            "failed": self.failed,
            "outside_ms": round(self.outside_s * 1e3, 3),
            "worst_lateness_ms": round(self.lateness_s * 1e3, 1),
            "same_instance": round(self.same_instance, 4),
            "emulated": self.emulated,
            "simulated": self.simulated,
            "errors": {name: round(error, 5) for name, error in self.errors.items()},
        }


@dataclass(frozen=True, slots=True)
class AgreementRun:
    """A cluster, what it is sent, and the policies under which it is."""

    plan: ClusterPlan
    config: ClusterConfig
    root: Path
    """Of the cluster's project: relative paths are taken from it."""
    workload: Workload
    policies: Sequence[str]

    async def run(self, on_progress: Notice) -> list[Agreement]:
        """Start the cluster, send the workload under each policy, simulate the same."""
        on_progress("starting the servers")
        async with LocalCluster(self.plan):
            writer = PromptWriter(self.plan.model / "tokenizer.json")
            target = Target.of(self.plan.openai_base_url, self.plan.served_model_name, "chat")
            client = LoadClient(target, writer)
            on_progress("requests that meet nobody")
            template_tokens = await _template_tokens(self.plan, writer)
            alone = _alone()
            await client.run(alone, "round_robin")  # the first ones of a server are slower than all others
            second = await client.run(alone, "round_robin")
            outside_s = self._outside_s(_longer(alone, template_tokens), second.outcomes)
            found = []
            for policy in self.policies:
                on_progress(policy)
                run = await client.run(self.workload, policy)
                found.append(self._compare(policy, run.outcomes, outside_s, template_tokens))
            return found

    def simulate(self, workload: Workload, policy: str, delays: Delays) -> ClusterResult:
        """The same cluster in virtual time."""
        engine, settings = self.config.engine, self.config.scheduler
        believed = self.config.predictor.latency or engine.latency
        instance = SimulatedInstance(
            engine.limits(), load_latency(self.root / engine.latency), load_latency(self.root / believed)
        )
        spec = ClusterSpec(
            instances=(instance,) * self.config.instances,
            policy=policy,
            policy_options=settings.policy_options.get(policy, {}),
            probes=settings.probe_count,
            scenarios=settings.scenarios,
            expect_arrivals=self.config.predictor.expect_arrivals,
            delays=delays,
        )
        return simulate_cluster(spec, known_load(workload.requests))

    def _outside_s(self, alone: Workload, outcomes: Sequence[Outcome]) -> float:
        """What a request takes that no engine knows of: the median of what is beyond the simulation."""
        simulated = self.simulate(alone, "round_robin", AT_ONCE).column("ttft_s")
        real = np.array([outcome.ttft_s or np.nan for outcome in outcomes])
        outside_s = float(np.nanmedian(real - simulated))
        if not np.isfinite(outside_s):
            raise StateError("no request that met nobody was answered; look at the servers' logs")
        return max(outside_s, 0.0)

    def _compare(
        self, policy: str, outcomes: Sequence[Outcome], outside_s: float, template_tokens: int
    ) -> Agreement:
        delays = Delays(feed_s=0.001, decision_s=0.002, tell_s=0.001, dispatch_s=0.0, return_s=0.0)
        delays = Delays(
            delays.feed_s,
            min(delays.decision_s, outside_s),
            0.001,
            max(outside_s - delays.decision_s, 0.0),
            0.0,
        )
        result = self.simulate(_longer(self.workload, template_tokens), policy, delays)
        good = np.array([not outcome.error for outcome in outcomes])
        instances = np.array([_index(outcome.instance) for outcome in outcomes])
        chosen = result.requests["instance"].to_numpy()
        return Agreement(
            policy=policy,
            requests=len(outcomes),
            failed=int((~good).sum()),
            outside_s=outside_s,
            emulated=_figures(
                np.array([outcome.ttft_s or np.nan for outcome in outcomes])[good],
                np.array([outcome.e2e_s or np.nan for outcome in outcomes])[good],
            ),
            simulated=_figures(result.column("ttft_s"), result.column("e2e_s")),
            lateness_s=max(outcome.lateness_s for outcome in outcomes),
            same_instance=float((instances == chosen)[good].mean()) if good.any() else 0.0,
        )


def _alone() -> Workload:
    prompt, output = _ALONE_LENGTHS
    requests = tuple(TraceRequest(index * _ALONE_GAP_S, prompt, output) for index in range(_ALONE))
    return Workload("requests that meet nobody", requests)


async def _template_tokens(plan: ClusterPlan, writer: PromptWriter) -> int:
    """What the model's chat template adds to a prompt, as a server counts it."""
    words = 100
    body = {
        "model": plan.served_model_name,
        "messages": [{"role": "user", "content": writer.write(words, seed=0)}],
        "max_tokens": 1,
    }
    url = f"{plan.openai_base_url}/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        answer = await response.json()
    return int(answer["usage"]["prompt_tokens"]) - words


def _longer(workload: Workload, tokens: int) -> Workload:
    """Every prompt with so many tokens more."""
    requests = (replace(each, prompt_tokens=each.prompt_tokens + tokens) for each in workload.requests)
    return replace(workload, requests=tuple(requests))


def _figures(ttft_s: Floats, e2e_s: Floats) -> dict[str, float]:
    found = {}
    for name, values in (("ttft_s", ttft_s), ("e2e_s", e2e_s)):
        found[f"mean_{name}"] = float(values.mean())
        found[f"p99_{name}"] = float(np.percentile(values, 99))
    return found


def _index(name: str | None) -> int:
    """Instances of a local cluster are named by their numbers."""
    digits = "".join(letter for letter in name or "" if letter.isdigit())
    return int(digits) if digits else -1

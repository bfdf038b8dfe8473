"""Workloads: when requests arrive and how long their prompts and responses are.

Lengths and arrivals come from recorded traces where the optional data folder has them, else from a
generator fitted to the published statistics. Seeded: the same arguments give the same workload.
Knows nothing of text, models or servers.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from block.errors import ConfigError

_SHAREGPT = Path("vidur_traces/sharegpt_val_10k_llama2.csv")
_AZURE = Path("azure_llm_2023/AzureLLMInferenceTrace_conv.csv")


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a workload."""

    arrival_s: float
    """From the workload's start."""
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in the order of their arrival."""

    source: str
    requests: tuple[TraceRequest, ...]

    @property
    def rate_per_s(self) -> float:
        """Mean arrival rate."""
        last_s = self.requests[-1].arrival_s if self.requests else 0.0
        return (len(self.requests) - 1) / last_s if last_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """What workload is wanted."""

    count: int
    rate_per_s: float
    """Mean arrivals per second; recorded arrivals are stretched to it."""
    data: Path
    """The optional data folder."""
    seed: int = 0
    most_tokens: int = 4000
    """Requests with more tokens of prompt and response together are left out."""


def sharegpt(spec: WorkloadSpec) -> Workload:
    """ShareGPT lengths, drawn without repetition, at Poisson arrivals."""
    random = np.random.default_rng(spec.seed)
    pairs = _read_lengths(spec, _SHAREGPT, "num_prefill_tokens", "num_decode_tokens")
    drawn = random.permutation(len(pairs))[: spec.count]
    return _at_poisson_arrivals(
        f"ShareGPT lengths ({_SHAREGPT.name})", [pairs[i] for i in drawn], spec, random
    )


def azure(spec: WorkloadSpec) -> Workload:
    """Azure's 2023 conversation trace from its start: recorded lengths and recorded arrivals."""
    rows = [row for row in _read_rows(spec.data / _AZURE) if _fits(_azure_lengths(row), spec)][: spec.count]
    _require(len(rows), spec, spec.data / _AZURE)
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]
    recorded_rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else spec.rate_per_s
    stretch = recorded_rate / spec.rate_per_s
    requests = tuple(
        TraceRequest((time - times[0]) * stretch, *_azure_lengths(row))
        for time, row in zip(times, rows, strict=True)
    )
    return Workload(f"Azure 2023 conversation trace ({_AZURE.name})", requests)


def generated(spec: WorkloadSpec) -> Workload:
    """Lengths from distributions fitted to ShareGPT's published statistics, at Poisson arrivals.

    Responses: Weibull, shape 1.45, scale 360 (mean 326, median 279, p90 640, p99 1,031; published
    326, 286, 682, 1,001). Prompts: 74 % short ones, log-normal around 25.7 tokens, and 26 % pasted
    texts, log-normal around 612, cut at 4,000 (mean 239, median 35, p90 751, p99 2,859; published
    246, 35, 761, 2,863). The two lengths are independent, as they nearly are in the data.
    """
    random = np.random.default_rng(spec.seed)
    pairs: list[tuple[int, int]] = []
    while len(pairs) < spec.count:
        pair = (_generated_prompt(random), max(1, round(360.0 * random.weibull(1.45))))
        if _fits(pair, spec):
            pairs.append(pair)
    return _at_poisson_arrivals("generated from ShareGPT's published statistics", pairs, spec, random)


WORKLOADS: dict[str, Callable[[WorkloadSpec], Workload]] = {
    "sharegpt": sharegpt,
    "azure": azure,
    "generated": generated,
}


def load_workload(name: str, spec: WorkloadSpec) -> Workload:
    """A workload by name; ``auto`` takes ShareGPT's lengths if they are at hand, else generates.

    Raises ConfigError for an unknown name, or a trace that is absent or too short.
    """
    if name == "auto":
        name = "sharegpt" if (spec.data / _SHAREGPT).is_file() else "generated"
    if name not in WORKLOADS:
        raise ConfigError(f"workload {name!r}: unknown; known here: auto, {', '.join(WORKLOADS)}")
    return WORKLOADS[name](spec)


def _generated_prompt(random: np.random.Generator) -> int:
    while True:
        median, sigma = (25.7, 0.71) if random.random() < 0.74 else (612.0, 1.13)
        tokens = round(float(random.lognormal(np.log(median), sigma)))
        if 1 <= tokens <= 4000:
            return tokens


def _at_poisson_arrivals(
    source: str, pairs: list[tuple[int, int]], spec: WorkloadSpec, random: np.random.Generator
) -> Workload:
    gaps = random.exponential(1.0 / spec.rate_per_s, len(pairs))
    arrivals = np.cumsum(gaps) - gaps[0]
    return Workload(
        source, tuple(TraceRequest(float(at), *pair) for at, pair in zip(arrivals, pairs, strict=True))
    )


def _read_lengths(spec: WorkloadSpec, path: Path, prompt: str, output: str) -> list[tuple[int, int]]:
    pairs = [(int(row[prompt]), int(row[output])) for row in _read_rows(spec.data / path)]
    fitting = [pair for pair in pairs if _fits(pair, spec)]
    _require(len(fitting), spec, spec.data / path)
    return fitting


def _read_rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: not there; name the data folder with --data, or use --workload generated"
        ) from error


def _azure_lengths(row: dict[str, str]) -> tuple[int, int]:
    return int(row["ContextTokens"]), int(row["GeneratedTokens"])


def _fits(pair: tuple[int, int], spec: WorkloadSpec) -> bool:
    return min(pair) >= 1 and sum(pair) <= spec.most_tokens


def _require(found: int, spec: WorkloadSpec, path: Path) -> None:
    if found < spec.count:
        raise ConfigError(
            f"{path}: has {found} requests of at most {spec.most_tokens} tokens, "
            f"not {spec.count}; ask for fewer"
        )

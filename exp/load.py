"""A load on one server: how long prompts and responses are, how often and how evenly requests come.

Lengths are scaled to the model's room, so that a tiny model with 1,024 tokens sees the ShareGPT of a
large one with 4,096 at a quarter of its size. Same load, same seed: same requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from block.errors import ConfigError, StateError
from exp.run_log import RunLog
from exp.workload import TraceRequest, Workload, WorkloadSpec, load_workload
from exp.workload.trace import at_gamma_arrivals

_SHAREGPT_ROOM = 4096
"""Tokens that a model had room for where ShareGPT's lengths were taken from."""
_ENOUGH = 4000
"""Lengths to draw from; the recorded ones have some more."""
_MARGIN = 8
_AT_ONCE_PER_S = 400.0
_FULL = 0.9


@dataclass(frozen=True, slots=True)
class Load:
    """What a server is given for a while."""

    mix: str
    """Name of a length mix."""
    rate_per_s: float
    duration_s: float
    seed: int
    burstiness: float = 1.0
    """Shape of the gamma-distributed gaps: 1 is Poisson, less is burstier."""

    @property
    def name(self) -> str:
        """For tables and file names."""
        shape = "" if self.burstiness == 1.0 else f"-gamma{self.burstiness:g}"
        return f"{self.mix}-{self.rate_per_s:.3g}{shape}-seed{self.seed}"

    def workload(self, room: int, data: Path) -> Workload:
        """The requests; ``room`` is the model's length, ``data`` the optional data folder."""
        if self.mix not in MIXES:
            raise ConfigError(f"length mix {self.mix!r}: unknown; known here: {', '.join(MIXES)}")
        random = np.random.default_rng(self.seed)
        count = max(2, round(self.rate_per_s * self.duration_s))
        lengths = MIXES[self.mix](_Draw(random, count, room, data))
        requests = [TraceRequest(0.0, prompt, output) for prompt, output in lengths]
        arriving = WorkloadSpec(count, self.rate_per_s, data, burstiness=self.burstiness)
        return Workload(self.name, at_gamma_arrivals(requests, arriving, random))


@dataclass(frozen=True, slots=True)
class _Draw:
    random: np.random.Generator
    count: int
    room: int
    data: Path

    def between(self, prompt: tuple[float, float], output: tuple[float, float]) -> list[tuple[int, int]]:
        """Both lengths uniform in the logarithm between shares of the room."""
        low, high = np.log([prompt[0], output[0]]), np.log([prompt[1], output[1]])
        shares = np.exp(self.random.uniform(low, high, (self.count, 2)))
        return [self.fitting(*(shares[i] * self.room)) for i in range(self.count)]

    def fitting(self, prompt: float, output: float) -> tuple[int, int]:
        """Whole lengths that leave some room; the response gives way."""
        prompt_tokens = int(np.clip(round(prompt), 1, self.room - 2 * _MARGIN))
        return prompt_tokens, int(np.clip(round(output), 2, self.room - _MARGIN - prompt_tokens))


def _sharegpt(draw: _Draw) -> list[tuple[int, int]]:
    spec = WorkloadSpec(_ENOUGH, 1.0, draw.data, seed=int(draw.random.integers(2**31)))
    drawn = load_workload("auto", spec).requests
    picks = draw.random.choice(len(drawn), draw.count, replace=draw.count > len(drawn))
    scale = draw.room / _SHAREGPT_ROOM
    return [draw.fitting(drawn[i].prompt_tokens * scale, drawn[i].output_tokens * scale) for i in picks]


def _long_prompts(draw: _Draw) -> list[tuple[int, int]]:
    return draw.between((0.2, 0.75), (0.02, 0.12))


def _prompts(draw: _Draw) -> list[tuple[int, int]]:
    return draw.between((0.3, 0.95), (0.004, 0.02))


def _deep(draw: _Draw) -> list[tuple[int, int]]:
    return draw.between((0.1, 0.5), (0.15, 0.4))


def _short(draw: _Draw) -> list[tuple[int, int]]:
    return draw.between((0.005, 0.05), (0.02, 0.1))


MIXES: Mapping[str, Callable[[_Draw], list[tuple[int, int]]]] = {
    "sharegpt": _sharegpt,
    "short": _short,
    "deep": _deep,
    "prompts": _prompts,
    "long-prompts": _long_prompts,
}
"""Name -> lengths: ShareGPT's; short ones; long contexts; hardly any answers; long prompts with answers."""


def burst(mix: str, count: int, seed: int) -> Load:
    """Requests that come as good as at once, to fill the engine."""
    return Load(mix, _AT_ONCE_PER_S, count / _AT_ONCE_PER_S, seed)


def capacity_per_s(run: RunLog) -> float:
    """Requests per second that an engine full of them finishes, from the log of a burst.

    Its first nine tenths of tokens: at the end the batch is no longer full.
    """
    tokens_s = sorted(at_s for request in run.good for at_s in request.token_s)
    nearly = int(_FULL * len(tokens_s))
    if len(run.good) < 2 or tokens_s[nearly] <= 0:
        raise StateError(f"{run.header.name}: too few answers to tell a capacity from")
    return _FULL * len(run.good) / tokens_s[nearly]

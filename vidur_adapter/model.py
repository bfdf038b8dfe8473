"""A step's time as the sum of its operators: what a profile says before anything is simplified.

Knows every chunk and context of a batch, so it is too slow to be asked at each simulated step of a what-if;
``tabulated`` turns it into the form that the simulation evaluates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from block.latency.least_squares import Floats
from vidur_adapter.attention import Attention
from vidur_adapter.batch import StepBatch
from vidur_adapter.operator import Operator, Timings

Origin = Literal["measured", "fitted", "assumed"]
Basis = Literal["tokens", "requests", "shared"]


@dataclass(frozen=True, slots=True)
class Part:
    """One operator's place in a step."""

    operator: Operator
    """Of one axis."""
    basis: Basis
    """What of the batch its cost depends on; ``shared``: tokens, those of engines in lockstep averaged in."""
    times: float
    """How often it runs per step."""
    origin: Origin
    note: str
    """Which file, or which assumption."""
    per_unit: float = 1.0
    """The operator's shape per token or request, such as the bytes of an all-reduce."""


@dataclass(frozen=True, slots=True)
class Constants:
    """What no operator table holds."""

    step_s: float = 0.0
    """The engine's own work per step, as far as it is not hidden behind the forward pass."""
    request_s: float = 0.0
    """The same per scheduled request."""
    factor: float = 1.0
    """On the sum of the operators."""
    origin: Origin = "assumed"
    note: str = "none: the sum of the operators"


@dataclass(frozen=True)
class OperatorModel:
    """Batches to seconds."""

    name: str
    parts: tuple[Part, ...]
    attention: Attention
    layers: int
    attention_note: str
    most_tokens: int
    """Largest batch that the operators by tokens were measured for."""
    constants: Constants = field(default_factory=Constants)
    captured_tokens: int = 0
    """Largest batch that runs as a captured graph, padded to a captured size; 0 for none."""
    _known: dict[tuple[Basis, float], tuple[float, bool, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def time(self, batches: Iterable[StepBatch], beside: float | None = None) -> Timings:
        """One entry per batch; never raises, says what was extrapolated and what assumed.

        ``beside``: tokens that an engine in lockstep computes at the same time; as many if None.
        """
        every = list(batches)
        own = np.array([self.padded(batch.tokens) for batch in every])
        others = own if beside is None else np.full(len(every), self.padded(beside))
        # Graphs are captured for one size, so engines in lockstep are padded to the largest batch.
        captured = np.maximum(own, others) <= self.captured_tokens
        own = np.where(captured, np.maximum(own, others), own)
        shared = np.where(captured, own, (own + others) / 2)
        tokens = self._by("tokens", own) + self._by("shared", shared)
        requests = self._by("requests", np.array([batch.requests for batch in every], dtype=float))
        attention = self.attention.time(every).scaled(self.layers)
        operators = (tokens + requests + attention).scaled(self.constants.factor)
        return operators + self._constant(np.array([batch.requests for batch in every], dtype=float))

    def padded(self, tokens: float) -> float:
        """The captured size that a batch runs at: 1, 2, 4, every 8th, from 256 on every 16th, as in vLLM."""
        if tokens > self.captured_tokens:
            return tokens
        step = 8 if tokens <= 256 else 16
        return next((float(size) for size in (1, 2, 4) if tokens <= size), float(-(-tokens // step) * step))

    def shares(self, batch: StepBatch) -> list[tuple[str, float, Origin, str]]:
        """Name, seconds, origin and note of everything in one step, the constants last."""
        tokens = self.padded(batch.tokens)
        counts = {"tokens": tokens, "shared": tokens, "requests": float(batch.requests)}
        found: list[tuple[str, float, Origin, str]] = [
            (
                part.operator.name,
                float(_time_part(part, np.array([counts[part.basis]])).seconds[0]),
                part.origin,
                part.note,
            )
            for part in self.parts
        ]
        attention = float(self.attention.time([batch]).seconds[0]) * self.layers
        found.append(("attention", attention, "measured", self.attention_note))
        rest = float(self.time([batch]).seconds[0]) - sum(seconds for _, seconds, _, _ in found)
        return [*found, ("engine", rest, self.constants.origin, self.constants.note)]

    def _by(self, basis: Basis, counts: Floats) -> Timings:
        """Of all operators that depend on one count; each count is worked out once."""
        asked = counts.tolist()
        if new := sorted({count for count in asked if (basis, count) not in self._known}):
            self._learn(basis, new)
        found = [self._known[basis, count] for count in asked]
        covered = np.array([covered for _, covered, _ in found], dtype=bool)
        return Timings(np.array([s for s, _, _ in found]), covered, np.array([a for _, _, a in found]))

    def _learn(self, basis: Basis, counts: list[float]) -> None:
        total = Timings.assumed(np.zeros(len(counts)))
        for part in self.parts:
            if part.basis == basis:
                total = total + _time_part(part, np.array(counts))
        facts = zip(total.seconds.tolist(), total.covered.tolist(), total.assumed_s.tolist(), strict=True)
        self._known.update({(basis, count): fact for count, fact in zip(counts, facts, strict=True)})

    def _constant(self, requests: Floats) -> Timings:
        seconds = self.constants.step_s + self.constants.request_s * requests
        if self.constants.origin == "assumed":
            return Timings.assumed(seconds)
        return Timings.measured(seconds, np.ones(len(seconds), dtype=bool))


def _time_part(part: Part, counts: Floats) -> Timings:
    return part.operator.time(counts[:, None] * part.per_unit).scaled(part.times)

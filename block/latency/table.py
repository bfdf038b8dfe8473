"""A step-latency model written down as a small table: seconds by tokens, plus linear terms.

This is how published or hand-made operator timings enter. The YAML file:

    kind: table
    source: where the figures come from
    tokens_ms: {1: 19.5, 32: 20.3, ...}      # linear operators, by scheduled tokens
    per_context_token_us: 0.75               # attention over cached tokens
    per_prefill_product_ns: 0.0              # attention of prompt chunks: chunk x context
    per_request_us: 0.0
    step_overhead_ms: 0.0                    # the engine's own work around the forward pass
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field

from block.config import load_config
from block.errors import ConfigError
from block.latency.base import KernelLatency
from block.settings import Settings
from block.types import BatchShape


class LatencyTable(Settings):
    """The YAML file's fields."""

    kind: Literal["table"] = "table"
    source: str = Field(min_length=1, description="Where the figures come from.")
    tokens_ms: dict[int, float] = Field(min_length=2, description="Milliseconds by scheduled tokens.")
    per_context_token_us: float = Field(0.0, ge=0)
    per_prefill_product_ns: float = Field(0.0, ge=0)
    per_request_us: float = Field(0.0, ge=0)
    step_overhead_ms: float = Field(0.0, ge=0)


@dataclass(frozen=True)
class TableLatency:
    """A ``StepLatencyModel`` read from a table."""

    name: str
    table: LatencyTable

    @classmethod
    def load(cls, path: Path) -> TableLatency:
        """Read the file; raises ConfigError that names it."""
        table = load_config(path, LatencyTable)
        negative = [tokens for tokens, ms in table.tokens_ms.items() if tokens < 0 or ms < 0]
        if negative:
            raise ConfigError(f"{path}: tokens_ms.{negative[0]}: must not be negative")
        return cls(name=path.stem, table=table)

    @property
    def version(self) -> str:
        """The file's name; a table is never calibrated in place."""
        return self.name

    @cached_property
    def kernel(self) -> KernelLatency:
        """The table in the simulation's form."""
        knots = sorted(self.table.tokens_ms)
        return KernelLatency(
            token_knots=tuple(float(tokens) for tokens in knots),
            token_seconds=tuple(
                (self.table.tokens_ms[tokens] + self.table.step_overhead_ms) / 1e3 for tokens in knots
            ),
            per_context_token_s=self.table.per_context_token_us / 1e6,
            per_prefill_product_s=self.table.per_prefill_product_ns / 1e9,
            per_request_s=self.table.per_request_us / 1e6,
        )

    def seconds(self, shape: BatchShape) -> float:
        """Duration of one step of this shape."""
        return self.kernel.seconds(shape)

    def covers(self, shape: BatchShape) -> bool:
        """Whether the token count lies within the table."""
        return self.kernel.token_knots[0] <= shape.tokens <= self.kernel.token_knots[-1]

"""A step-latency model fitted from recorded steps, as it is kept: its form, origin and measured error.

Reads and writes the file; ``fit`` makes one. The YAML file is a table's with three groups more:

    kind: fitted
    method: linear                            # or boosted
    tokens_ms: {1.0: 19.5, 32.0: 20.3, ...}
    per_context_token_us, per_prefill_product_ns, per_request_us
    provenance: {source, engine_config, date, versions}
    report: {steps, held_out_steps, linear, boosted, boosted_form}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field

from block.config import load_config
from block.errors import ConfigError, PackError
from block.latency.base import KernelLatency
from block.settings import Settings
from block.types import BatchShape


class Provenance(Settings):
    """Where the steps came from; given by whoever fits."""

    source: str = Field(min_length=1, description="What was run, and on what.")
    engine_config: str = Field("", description="Hash of the engine's limits, see EngineLimits.")
    date: str = Field(min_length=1, description="When the steps ran, as the caller writes dates.")
    versions: dict[str, str] = Field(default_factory=dict, description="Package -> version.")


class Errors(Settings):
    """Absolute relative error on held-out steps."""

    median: float = Field(ge=0)
    p90: float = Field(ge=0)


class FitReport(Settings):
    """How far off each method is on steps that it has not seen."""

    steps: int = Field(ge=0, description="Steps fitted while reporting.")
    held_out_steps: int = Field(ge=0, description="Steps held out.")
    linear: Errors = Field(description="Non-negative least squares.")
    boosted: Errors = Field(description="Gradient-boosted trees themselves.")
    boosted_form: Errors = Field(description="The simulation's form fitted to the trees.")


class FittedFile(Settings):
    """The YAML file's fields."""

    kind: Literal["fitted"]
    method: Literal["linear", "boosted"] = "linear"
    tokens_ms: dict[float, float] = Field(min_length=2, description="Milliseconds by scheduled tokens.")
    per_context_token_us: float = Field(0.0, ge=0)
    per_prefill_product_ns: float = Field(0.0, ge=0)
    per_request_us: float = Field(0.0, ge=0)
    provenance: Provenance
    report: FitReport


@dataclass(frozen=True)
class FittedLatency:
    """A ``StepLatencyModel`` fitted from recorded steps."""

    name: str
    kernel: KernelLatency
    method: Literal["linear", "boosted"]
    provenance: Provenance
    report: FitReport

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote; raises ConfigError that names the file."""
        file = load_config(path, FittedFile)
        knots = sorted(file.tokens_ms)
        try:
            kernel = KernelLatency(
                tuple(knots),
                tuple(file.tokens_ms[tokens] / 1e3 for tokens in knots),
                file.per_context_token_us / 1e6,
                file.per_prefill_product_ns / 1e9,
                file.per_request_us / 1e6,
            )
        except PackError as error:
            raise ConfigError(f"{path}: {error}") from error
        return cls(path.stem, kernel, file.method, file.provenance, file.report)

    def save(self, path: Path) -> None:
        """Write the YAML file; raises PackError if the place cannot be written."""
        kernel = self.kernel
        file = FittedFile(
            kind="fitted",
            method=self.method,
            tokens_ms={
                tokens: s * 1e3 for tokens, s in zip(kernel.token_knots, kernel.token_seconds, strict=True)
            },
            per_context_token_us=kernel.per_context_token_s * 1e6,
            per_prefill_product_ns=kernel.per_prefill_product_s * 1e9,
            per_request_us=kernel.per_request_s * 1e6,
            provenance=self.provenance,
            report=self.report,
        )
        try:
            path.write_text(yaml.safe_dump(file.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        except OSError as error:
            raise PackError(f"{path}: cannot be written ({error.strerror})") from error

    @property
    def version(self) -> str:
        """The file's name."""
        return self.name

    def seconds(self, shape: BatchShape) -> float:
        """Duration of one step of this shape."""
        return self.kernel.seconds(shape)

    def covers(self, shape: BatchShape) -> bool:
        """Whether the token count lies within what was fitted."""
        return self.kernel.token_knots[0] <= shape.tokens <= self.kernel.token_knots[-1]

"""What cluster is simulated: its instances, schedulers, delays and mishaps. Values only.

Same specification, same load: same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from block.errors import ConfigError
from block.latency.base import StepLatencyModel
from block.provisioning_config import ProvisioningSettings
from block.types import EngineLimits


@dataclass(frozen=True, slots=True)
class SimulatedInstance:
    """One vLLM server with its predictor."""

    limits: EngineLimits
    latency: StepLatencyModel
    """How long its steps last."""
    believed: StepLatencyModel | None = None
    """What its predictor takes them for; None: it knows."""
    joins_s: float = 0.0
    """When schedulers may send to it; infinity: when provisioning calls for it."""
    drains_s: float = math.inf
    """From then on it gets no new requests, and leaves once it has none."""


@dataclass(frozen=True, slots=True)
class Delays:
    """What takes time beside the engines, in seconds."""

    feed_s: float = 0.001
    """From something that happens in an engine to its being known outside."""
    decision_s: float = 0.002
    """From a request's arrival at a scheduler, when predictors answer, to the choice."""
    tell_s: float = 0.001
    """From the choice to the predictor's knowing of it."""
    dispatch_s: float = 0.003
    """From the choice to the engine's queue."""
    return_s: float = 0.001
    """From the engine to the client, for each token."""
    retry_s: float = 0.005
    """From an instance's failure to the next attempt elsewhere."""

    @property
    def outside_s(self) -> float:
        """What a client waits besides the engine."""
        return self.decision_s + self.dispatch_s + self.return_s


AT_ONCE = Delays(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Nothing but the engines takes time."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An instance dies with all that it has."""

    instance: int
    at_s: float
    noticed_s: float = 0.0
    """After so long schedulers send nothing there; until then attempts there fail."""
    back_s: float = math.inf
    """When it is there again, empty."""


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A cluster. Raises ConfigError for what cannot be."""

    instances: tuple[SimulatedInstance, ...]
    policy: str = "block"
    """A policy's name, or package.module:Class."""
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    schedulers: int = 1
    """Copies that know nothing of one another; each request goes to one of them at random."""
    probes: int | None = None
    """Predictors asked per request where the policy does not say; None asks all."""
    scenarios: int = 1
    """Scenarios of response lengths that predictors average over."""
    reservations: bool = True
    """Whether predictors count choices that their engine has not shown yet."""
    expect_arrivals: bool = True
    """Whether predictors count on more arrivals like the latest."""
    prefixes: str = "record"
    """What routers go by about prefix caches: a name of ``exp.cluster.prefixes.PREFIXES``."""
    delays: Delays = Delays()
    failures: tuple[Failure, ...] = ()
    provisioning: ProvisioningSettings | None = None
    """Strategies simulate the first instance as what all of them are."""
    slo_ttft_s: float | None = None
    slo_e2e_s: float | None = None
    sample_s: float = 1.0
    """Between two entries of the instances' time series."""
    hindsight: bool = False
    """Also rank the chosen instance by what-ifs that know all lengths; doubles the cost."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.instances:
            raise ConfigError("instances: none; a cluster needs at least one")
        for name in ("schedulers", "scenarios"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.sample_s <= 0:
            raise ConfigError(f"sample_s = {self.sample_s}: must be above 0")
        for failure in self.failures:
            if not 0 <= failure.instance < len(self.instances):
                raise ConfigError(
                    f"failures: no instance {failure.instance}; there are {len(self.instances)}"
                )

"""The experiment as its YAML says: strategies, and the loads under which they are compared."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from block.config import parse_config
from block.errors import ConfigError
from block.provisioning_config import ProvisioningSettings
from block.settings import Option, Seconds, Settings, Whole
from global_scheduler.policies import make_policy

Rate = Annotated[float, Field(strict=True, gt=0, le=1e6)]


class StrategyVariant(Settings):
    """One line of the comparison."""

    set: dict[str, Option] = Field(default_factory=dict, description="Settings of provisioning.")
    start: Whole | None = Field(None, ge=1, description="Instances at first; None takes the load's.")


class LoadVariant(Settings):
    """What comes, for how long."""

    rate_per_s: Rate = Field(description="Mean arrivals per second.")
    duration_s: Seconds = Field(description="How long they come.")
    start: Whole = Field(6, ge=1, description="Instances at first.")
    curve: Literal["constant", "day"] = Field("constant", description="How the rate goes.")
    set: dict[str, Option] = Field(default_factory=dict, description="Settings of provisioning.")


class QuickSettings(Settings):
    """What --quick takes instead."""

    seeds: tuple[Whole, ...] = Field((0,), min_length=1)
    duration_share: Annotated[float, Field(gt=0, le=1)] = Field(0.25, description="Of each duration.")
    loads: tuple[str, ...] = Field((), description="Which of them; none: all.")


class ProvisionSpec(Settings):
    """The whole experiment."""

    title: str
    policy: str = Field("block", description="How requests are routed.")
    policy_options: dict[str, Option] = Field(default_factory=dict, description="Of the policy.")
    probes: Whole | None = Field(None, ge=1, description="Predictors asked per request; None asks all.")
    latency: Path = Field(description="Step-latency model of every instance.")
    most_instances: Whole = Field(12, ge=1, le=64, description="As many could be there.")
    slo_ttft_s: Seconds = Field(3.0, description="A request with a longer TTFT is a miss.")
    set: dict[str, Option] = Field(default_factory=dict, description="Settings of provisioning for all.")
    strategies: dict[str, StrategyVariant] = Field(min_length=1)
    loads: dict[str, LoadVariant] = Field(min_length=1)
    seeds: tuple[Whole, ...] = Field((0,), min_length=1)
    quick: QuickSettings = Field(default_factory=QuickSettings)

    def quickened(self) -> Self:
        """As --quick wants it."""
        share, names = self.quick.duration_share, self.quick.loads or tuple(self.loads)
        loads = {
            name: load.model_copy(update={"duration_s": load.duration_s * share})
            for name, load in self.loads.items()
            if name in names
        }
        return self.model_copy(update={"loads": loads, "seeds": self.quick.seeds})

    def check(self) -> None:
        """Raise ConfigError for what would be wrong with any of its runs."""
        make_policy(self.policy, self.policy_options)
        unknown = [name for name in self.quick.loads if name not in self.loads]
        if unknown:
            known = ", ".join(self.loads)
            raise ConfigError(f"quick.loads: there is no load {unknown[0]!r}; known are {known}")
        for load, strategy in product(self.loads, self.strategies):
            self.start(load, strategy)
            most = self.settings(load, strategy).max_instances
            if most > self.most_instances:
                raise ConfigError(
                    f"load {load}, strategy {strategy}: max_instances = {most} is above most_instances = "
                    f"{self.most_instances}; lower the one or raise the other"
                )

    def settings(self, load: str, strategy: str) -> ProvisioningSettings:
        """Of one run; the strategy's own come last."""
        raw = {**self.set, **self.loads[load].set, **self.strategies[strategy].set}
        return parse_config(raw, ProvisioningSettings, f"load {load}, strategy {strategy}")

    def start(self, load: str, strategy: str) -> int:
        """Instances at first; raises ConfigError for more than there could be."""
        start = self.strategies[strategy].start or self.loads[load].start
        if start > self.most_instances:
            raise ConfigError(
                f"load {load}, strategy {strategy}: start = {start} is above most_instances = "
                f"{self.most_instances}; raise that"
            )
        return start

"""One experiment as its YAML says: what is varied, over which cluster, and which figures come of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from block.config import ClusterConfig, load_config
from block.errors import ConfigError
from block.settings import Flag, Option, Settings, Whole
from exp.experiment.cell import Cell, Traffic

_HERE = Path(__file__).resolve().parents[2]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Rate = Annotated[float, Field(strict=True, gt=0, le=1e6)]


class Variant(Settings):
    """A change of the cluster."""

    set: dict[str, Option] = Field(default_factory=dict, description="Settings by dotted name, as --set.")


class PolicyVariant(Variant):
    """A way of routing; without ``scheduler.policy`` in it, its name is the policy's."""

    lengths: str = Field(
        "oracle",
        description="What is known of response lengths; a name of exp.cluster.estimates. Simulated only.",
    )
    length_error: float = Field(
        0.5, gt=0, le=3, description="Sigma of the log-normal error of a guess or distribution."
    )


class Quick(Settings):
    """What is smaller with --quick."""

    requests: Whole | None = Field(None, ge=2)
    rates_per_s: tuple[Rate, ...] = Field((), description="Empty: as without.")
    seeds: tuple[Whole, ...] = Field((), description="Empty: as without.")


class ExperimentSpec(Settings):
    """One experiment. Every policy meets every engine, workload, rate and seed."""

    title: str = Field(min_length=1)
    cluster: Path = Field(Path("config/cluster/local.yaml"), description="Cluster file that is varied.")
    set: dict[str, Option] = Field(default_factory=dict, description="Settings for all cells.")
    requests: Whole = Field(10_000, ge=2, description="Of each cell.")
    policies: dict[Name, PolicyVariant] = Field(min_length=1)
    engines: dict[Name, Variant] = Field(default_factory=lambda: {"default": Variant()}, min_length=1)
    workloads: dict[Name, Traffic] = Field(
        default_factory=lambda: {"sharegpt": Traffic(name="auto")}, min_length=1
    )
    rates_per_s: tuple[Rate, ...] = Field(min_length=1)
    seeds: tuple[Whole, ...] = Field((0,), min_length=1)
    slo_ttft_s: tuple[Rate, ...] = Field((3.0, 10.0), description="SLOs on P99 TTFT to tell capacities for.")
    figures: tuple[str, ...] = Field(("load",), description="Figures to draw, by name.")
    published_qps: dict[str, dict[Name, str]] = Field(
        default_factory=dict,
        description="Capacities that a paper gives, by engine/workload/SLO and policy; shown beside ours.",
    )
    quick: Quick = Field(default_factory=Quick)
    hindsight: Flag = Field(
        False,
        description="Rank each choice by what-ifs that know all lengths; doubles the cost. Simulated only.",
    )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ConfigError that names file, field, value and remedy."""
        return load_config(path, cls)

    @property
    def cluster_file(self) -> Path:
        """A relative path is taken from here, else from this project."""
        return self.cluster if self.cluster.exists() else _HERE / self.cluster

    def quickened(self) -> Self:
        """As --quick wants it."""
        quick = self.quick
        return self.model_copy(
            update={
                "requests": quick.requests or self.requests,
                "rates_per_s": quick.rates_per_s or self.rates_per_s,
                "seeds": quick.seeds or self.seeds,
            }
        )

    def cells(self) -> Iterator[Cell]:
        """The matrix; raises ConfigError for a setting that a cluster does not have."""
        rates = sorted(set(self.rates_per_s))
        clusters = {
            (policy, engine): self._cluster(policy, engine)
            for policy, engine in product(self.policies, self.engines)
        }
        for engine, workload, rate, seed, policy in product(
            self.engines, self.workloads, rates, self.seeds, self.policies
        ):
            yield Cell(
                policy=policy,
                engine=engine,
                workload=workload,
                rate_per_s=rate,
                seed=seed,
                requests=self.requests,
                cluster=clusters[policy, engine],
                traffic=self.workloads[workload],
                lengths=self.policies[policy].lengths,
                length_error=self.policies[policy].length_error,
                hindsight=self.hindsight,
            )

    def _cluster(self, policy: str, engine: str) -> ClusterConfig:
        variant = self.policies[policy].set
        named = {} if "scheduler.policy" in variant else {"scheduler.policy": policy}
        settings = {**self.set, **self.engines[engine].set, **named, **variant}
        try:
            return load_config(self.cluster_file, ClusterConfig, settings)
        except ConfigError as error:
            raise ConfigError(f"policy {policy}, engine {engine}: {error}") from error

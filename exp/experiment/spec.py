"""One experiment as its YAML says: what is varied, over which cluster, and which figures come of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from block.config import ClusterConfig, load_config
from block.errors import ConfigError
from block.settings import Flag, Option, Settings, Whole
from exp.experiment.cell import Cell, Traffic
from exp.experiment.claims import ExpectedOrder, Goal, Name, PublishedFigure, Rate, WidestGain
from exp.experiment.summary import MEASURES

_HERE = Path(__file__).resolve().parents[2]


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
    prefixes: str = Field(
        "record",
        description="What is known of prefix caches; a name of exp.cluster.prefixes. Simulated only.",
    )


class Pool(Settings):
    """Instances of one kind, of a cluster whose instances are not all alike."""

    instances: Whole = Field(ge=1, le=64, description="How many of this kind.")
    set: dict[str, Option] = Field(
        default_factory=dict, description="What this kind differs in: settings of engine and predictor."
    )

    @model_validator(mode="after")
    def _only_its_own(self) -> Self:
        for name in self.set:
            if not name.startswith(("engine.", "predictor.")):
                raise ValueError(
                    f"set: {name}: belongs to the whole cluster; a pool sets engine.* and predictor.* only"
                )
        return self


class EngineVariant(Variant):
    """How the engines are: all alike, or pools of several kinds."""

    pools: dict[Name, Pool] = Field(
        default_factory=dict,
        description="Kinds of instances by name, in place of equal ones. Simulated only.",
    )
    rates_per_s: tuple[Rate, ...] = Field(
        (), description="Rates for these engines, which carry more or less; empty: the spec's."
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
    engines: dict[Name, EngineVariant] = Field(
        default_factory=lambda: {"default": EngineVariant()}, min_length=1
    )
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
    published_qps_why: dict[str, str] = Field(
        default_factory=dict, description="Why ours differ from those, by engine/workload/SLO."
    )
    published: tuple[PublishedFigure, ...] = Field((), description="Other figures that a paper gives.")
    expected: tuple[ExpectedOrder, ...] = Field((), description="Orders that a paper found.")
    widest: tuple[WidestGain, ...] = Field((), description="Where a paper found the largest gains.")
    goals: tuple[Goal, ...] = Field((), description="What was to be gained, told as met or missed.")
    baselines: tuple[Name, ...] = Field(
        (), description="Policies that the others are held against, seed by seed."
    )
    tables: tuple[str, ...] = Field(
        (),
        description="Figures of exp.experiment.summary.MEASURES to tabulate over the rates.",
    )
    notes: str = Field("", description="What a reader of the results must know: why figures differ.")
    quick: Quick = Field(default_factory=Quick)
    hindsight: Flag = Field(
        False,
        description="Rank each choice by what-ifs that know all lengths; doubles the cost. Simulated only.",
    )

    @model_validator(mode="after")
    def _claims_are_about_what_is_run(self) -> Self:
        """A claim with a wrong name would be a row that is silently not there."""
        claims = (*self.published, *self.expected, *self.widest, *self.goals)
        places = set(product(self.engines, self.workloads))
        keys = {f"{'/'.join(place)}/{slo_s:g}s" for place, slo_s in product(places, self.slo_ttft_s)}
        by_qps = {name for by in self.published_qps.values() for name in by}
        for what, named, known in (
            (
                "policy",
                {*self.baselines, *by_qps, *(n for claim in claims for n in claim.named)},
                {*self.policies},
            ),
            ("engine, workload", {claim.place for claim in claims}, places),
            ("engine/workload/SLO", {*self.published_qps, *self.published_qps_why}, keys),
            ("measure", {*self.tables, *(figure.measure for figure in self.published)}, {*MEASURES}),
        ):
            for name in sorted(named - known, key=str):
                raise ValueError(
                    f"{what} {name}: not in this spec; it has {', '.join(map(str, sorted(known)))}"
                )
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ConfigError that names file, field, value and remedy."""
        return load_config(path, cls)

    @property
    def cluster_file(self) -> Path:
        """A relative path is taken from here, else from this project."""
        return self.cluster if self.cluster.exists() else _HERE / self.cluster

    @property
    def ours(self) -> frozenset[str]:
        """Policies by the predictions of this project; figures set them apart."""
        return frozenset(
            name
            for name, policy in self.policies.items()
            if str(policy.set.get("scheduler.policy", name)).startswith("block")
        )

    def quickened(self) -> Self:
        """As --quick wants it."""
        quick = self.quick
        engines = self.engines
        if quick.rates_per_s:
            engines = {name: one.model_copy(update={"rates_per_s": ()}) for name, one in engines.items()}
        return self.model_copy(
            update={
                "requests": quick.requests or self.requests,
                "engines": engines,
                "rates_per_s": quick.rates_per_s or self.rates_per_s,
                "seeds": quick.seeds or self.seeds,
            }
        )

    def sized(self, requests: int | None, seeds: int | None) -> Self:
        """With so many requests in a cell, and the first of the seeds; None leaves it. Raises ConfigError."""
        if seeds is not None and seeds > len(self.seeds):
            raise ConfigError(f"--seeds {seeds}: the spec has {len(self.seeds)}; add more to its seeds")
        return self.model_copy(update={"requests": requests or self.requests, "seeds": self.seeds[:seeds]})

    def cells(self) -> Iterator[Cell]:
        """The matrix; raises ConfigError for a setting that a cluster does not have."""
        clusters = {
            (policy, engine): self._cluster(policy, engine)
            for policy, engine in product(self.policies, self.engines)
        }
        pools = {place: self._pools(*place) for place in clusters}
        places = (
            (engine, workload, rate)
            for engine, workload in product(self.engines, self.workloads)
            for rate in self._rates(engine)
        )
        for (engine, workload, rate), seed, policy in product(places, self.seeds, self.policies):
            yield Cell(
                policy=policy,
                engine=engine,
                workload=workload,
                rate_per_s=rate,
                seed=seed,
                requests=self.requests,
                cluster=clusters[policy, engine],
                pools=pools[policy, engine],
                traffic=self.workloads[workload],
                lengths=self.policies[policy].lengths,
                length_error=self.policies[policy].length_error,
                prefixes=self.policies[policy].prefixes,
                hindsight=self.hindsight,
            )

    def _rates(self, engine: str) -> list[float]:
        return sorted(set(self.engines[engine].rates_per_s or self.rates_per_s))

    def _cluster(self, policy: str, engine: str) -> ClusterConfig:
        """The whole fleet; where it has pools, with the settings that they share."""
        pools = self.engines[engine].pools.values()
        total: dict[str, Option] = {"instances": sum(pool.instances for pool in pools)} if pools else {}
        return self._resolved(policy, engine, total)

    def _pools(self, policy: str, engine: str) -> tuple[ClusterConfig, ...]:
        """One cluster for each kind of instances; none if all are alike."""
        return tuple(
            self._resolved(policy, engine, {**pool.set, "instances": pool.instances}, f", pool {name}")
            for name, pool in self.engines[engine].pools.items()
        )

    def _resolved(self, policy: str, engine: str, more: dict[str, Option], place: str = "") -> ClusterConfig:
        variant = self.policies[policy].set
        named = {} if "scheduler.policy" in variant else {"scheduler.policy": policy}
        settings = {**self.set, **self.engines[engine].set, **named, **variant, **more}
        try:
            return load_config(self.cluster_file, ClusterConfig, settings)
        except ConfigError as error:
            raise ConfigError(f"policy {policy}, engine {engine}{place}: {error}") from error

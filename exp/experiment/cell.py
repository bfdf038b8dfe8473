"""One cell of an experiment's matrix: a cluster under a load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from block.config import ClusterConfig
from block.settings import Flag, Settings, Whole
from exp.workload import Workload, WorkloadSpec, load_workload

_NAMES = frozenset(("policy", "engine", "workload"))
"""Of a cell's content, what only its spec calls so."""


class Traffic(Settings):
    """A workload without its rate, count and seed."""

    name: str = Field("auto", description="As block-exp bench serve's --workload takes it.")
    burstiness: Annotated[float, Field(strict=True, gt=0)] = Field(
        1.0, description="Shape of gamma-distributed gaps; 1 is Poisson."
    )
    most_tokens: Whole = Field(4000, ge=2, description="Longer requests are left out.")
    recorded_times: Flag = Field(True, description="Keep recorded arrivals, stretched to the rate.")
    in_order: Flag = Field(
        False, description="Take a stretch of the trace as it is, from a place that the seed says."
    )


def substance_of(content: Mapping[str, Any]) -> str:
    """A cell's content without the spec's names, as text: equal where equal files simulate the same."""
    return json.dumps({key: value for key, value in content.items() if key not in _NAMES}, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Cell:
    """What is run as one piece. Names are the spec's."""

    policy: str
    engine: str
    workload: str
    rate_per_s: float
    seed: int
    requests: int
    cluster: ClusterConfig
    traffic: Traffic
    lengths: str = "oracle"
    """What routers know of response lengths: a name of ``exp.cluster.estimates.ESTIMATES``."""
    length_error: float = 0.5
    """Sigma of a guess."""
    prefixes: str = "record"
    """What routers know of prefix caches: a name of ``exp.cluster.prefixes.PREFIXES``."""
    hindsight: bool = False
    """Whether choices are ranked by what-ifs that know all lengths."""
    pools: tuple[ClusterConfig, ...] = ()
    """Kinds of instances where they are not all alike: each as a cluster of its own; else none."""

    @property
    def kinds(self) -> tuple[ClusterConfig, ...]:
        """Equal instances by kind, in the order of their numbers."""
        return self.pools or (self.cluster,)

    @property
    def id(self) -> str:
        """For file names; no two cells of a spec share it."""
        return f"{self.policy}+{self.engine}+{self.workload}+{self.rate_per_s:g}+{self.seed}"

    @property
    def content(self) -> dict[str, Any]:
        """Everything that decides the result, JSON-ready."""
        return {
            "policy": self.policy,
            "engine": self.engine,
            "workload": self.workload,
            "rate_per_s": self.rate_per_s,
            "seed": self.seed,
            "requests": self.requests,
            "lengths": self.lengths,
            "length_error": self.length_error,
            "prefixes": self.prefixes,
            "hindsight": self.hindsight,
            "cluster": self.cluster.model_dump(mode="json"),
            "pools": [pool.model_dump(mode="json") for pool in self.pools],
            "traffic": self.traffic.model_dump(mode="json"),
        }

    @property
    def substance(self) -> str:
        """Its ``substance_of``."""
        return substance_of(self.content)

    @property
    def digest(self) -> str:
        """Of the content: another cell, another digest."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()[:16]

    def arrivals(self, data: Path) -> Workload:
        """The requests; the same for every policy and engine."""
        traffic = self.traffic
        return load_workload(
            traffic.name,
            WorkloadSpec(
                self.requests,
                self.rate_per_s,
                data,
                self.seed,
                traffic.most_tokens,
                traffic.burstiness,
                traffic.recorded_times,
                in_order=traffic.in_order,
            ),
        )

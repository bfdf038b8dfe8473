"""A group: what is started and ended together on one host - an instance, with its predictor if that is alone;
the predictors that share a process; or a scheduler.

A group is sent to its host as JSON and planned there; its digest tells whether it must be started anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from block.config import EngineSettings, PredictorSettings, SchedulerSettings
from block.fleet_config import NAME
from block.settings import Port, Seconds, Settings

Role = Literal["predictors", "instance", "scheduler"]


class InstancePart(Settings):
    """A vLLM server, and its predictor unless a group beside it has that."""

    engine: EngineSettings
    engine_port: Port
    predictor: PredictorSettings | None = Field(
        description="None: it is in a group of its host's predictors."
    )
    predictor_port: Port
    predictor_path: str = Field("", description="Where on that port it is.")


class PredictorsPart(Settings):
    """The predictors of several instances of one host, in one process."""

    instances: tuple[str, ...] = Field(description="With those for which there is room but which do not run.")
    latency: Path
    predictor: PredictorSettings
    port: Port


class SchedulerPart(Settings):
    """One copy of the scheduler. Its instances stand in a file that it follows."""

    scheduler: SchedulerSettings
    port: Port
    served_model_name: str


class Group(Settings):
    """One group. ``host`` is a name; ``listen`` what its servers bind, ``address`` what others reach."""

    fleet: str = Field(pattern=NAME)
    name: str = Field(pattern=NAME)
    host: str
    listen: str
    address: str
    gpus: tuple[int, ...] = ()
    ready_timeout_s: Seconds
    source: str = Field(description="Digest of the sources that it runs.")
    part: InstancePart | PredictorsPart | SchedulerPart

    @property
    def role(self) -> Role:
        """What it is."""
        return _ROLES[type(self.part)]

    @property
    def digest(self) -> str:
        """Changes when anything does that a running group would notice."""
        return hashlib.sha256(self.model_dump_json(exclude={"ready_timeout_s"}).encode()).hexdigest()[:16]

    @property
    def ports(self) -> tuple[int, ...]:
        """In the order of its processes."""
        if isinstance(self.part, InstancePart):
            own = () if self.part.predictor is None else (self.part.predictor_port,)
            return (self.part.engine_port, *own)
        return (self.part.port,)

    def predictor_url(self, address: str) -> str:
        """Where an instance's predictor is for who reaches its host at ``address``; empty for other roles."""
        if not isinstance(self.part, InstancePart):
            return ""
        return f"http://{address}:{self.part.predictor_port}{self.part.predictor_path}"


_ROLES: Mapping[type[Settings], Role] = {
    PredictorsPart: "predictors",
    InstancePart: "instance",
    SchedulerPart: "scheduler",
}

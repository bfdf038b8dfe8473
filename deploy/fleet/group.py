"""A group: what is started and ended together on one host - an instance with its predictor, or a scheduler.

A group is sent to its host as JSON and planned there; its digest tells whether it must be started anew.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field

from block.config import EngineSettings, PredictorSettings, SchedulerSettings
from block.fleet_config import NAME
from block.settings import Port, Seconds, Settings

Role = Literal["instance", "scheduler"]


class InstancePart(Settings):
    """A vLLM server and its predictor."""

    engine: EngineSettings
    engine_port: Port
    predictor: PredictorSettings
    predictor_port: Port


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
    part: InstancePart | SchedulerPart

    @property
    def role(self) -> Role:
        """What it is."""
        return "instance" if isinstance(self.part, InstancePart) else "scheduler"

    @property
    def digest(self) -> str:
        """Changes when anything does that a running group would notice."""
        return hashlib.sha256(self.model_dump_json(exclude={"ready_timeout_s"}).encode()).hexdigest()[:16]

    @property
    def ports(self) -> tuple[int, ...]:
        """In the order of its processes."""
        if isinstance(self.part, InstancePart):
            return (self.part.engine_port, self.part.predictor_port)
        return (self.part.port,)

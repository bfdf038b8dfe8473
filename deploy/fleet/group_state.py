"""What a host, or Slurm, says of a group. Sent over the wire as JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

from deploy.state import ProcessState

GroupPhase = Literal["waiting", "starting", "ready", "failed", "ended"]
"""``waiting``: for Slurm to find it a node; ``failed``: it runs, but not all of it; ``ended``: nothing of
it runs."""


class GroupState(msgspec.Struct, frozen=True):
    """One group as it was last seen."""

    name: str
    digest: str
    host: str
    phase: GroupPhase
    reason: str = ""
    """Why it is not ready, in one line."""
    address: str = ""
    """What others reach it by; empty while that is not known."""
    node: str = ""
    """Where Slurm has put it."""
    processes: tuple[ProcessState, ...] = ()
    predictor_url: str = ""
    """Of an instance whose address is known; another group may have the process."""
    job: str = ""
    """Slurm's number of it."""

    @property
    def runs(self) -> bool:
        """Whether anything of it does, or will."""
        return self.phase != "ended"

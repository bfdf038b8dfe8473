"""The one contract between the verbs and whatever runs a fleet: put files, start, stop, look, read logs.

``deploy/fleet/hosts_backend.py`` keeps it on hosts that have a shell, ``deploy/fleet/slurm_backend.py`` on
Slurm's nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from deploy.fleet.agent_messages import Logs
from deploy.fleet.group import Group
from deploy.fleet.group_state import GroupState
from deploy.fleet.install import Report


class Backend(Protocol):
    """Where groups run. Every method raises HostError, which names the host, when it cannot be done."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """All of them, whether or not something runs there."""
        ...

    async def put(self, host: str, report: Report) -> bool:
        """Bring sources and environment up to date; False if they were."""
        ...

    async def start(self, group: Group, secrets: Mapping[str, str]) -> None:
        """Start a group on its host, or leave it if it runs as it should; does not wait until it is ready."""
        ...

    async def stop(self, host: str, name: str) -> None:
        """End a group and remove its folder."""
        ...

    async def look(self, host: str) -> tuple[GroupState, ...]:
        """All groups of this fleet on a host."""
        ...

    async def tell(self, host: str, groups: Sequence[Group], drained: Collection[str]) -> None:
        """Let a host's schedulers send requests to the instances among ``groups``, but not to ``drained``."""
        ...

    async def logs(self, host: str, known: Mapping[str, int], tail: int) -> Logs:
        """What is new in the logs of a host's groups, by process."""
        ...

    async def fetch(self, host: str, pages: Mapping[str, str], key: str = "") -> Mapping[str, str]:
        """HTTP answers as they are had near the groups: URL -> body to post, empty for GET. ``key``: that all
        of them take."""
        ...

    async def run(self, host: str, program: str, timeout_s: float) -> str:
        """Let the host's plain Python run a program; returns what it wrote."""
        ...

    async def clean_up(self, host: str) -> None:
        """End whatever of this fleet is left on a host and remove its folder."""
        ...

    async def close(self) -> None:
        """Let go of all connections; what runs goes on."""
        ...

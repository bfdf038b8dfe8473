"""Groups on hosts that have a shell: this machine, or others through ssh."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import msgspec

from deploy.fleet.agent_client import AgentClient
from deploy.fleet.agent_messages import (
    CleanUp,
    Fetch,
    Fetched,
    Logs,
    Look,
    ReadLogs,
    Seen,
    Start,
    Stop,
    Tell,
)
from deploy.fleet.bundle import Bundle
from deploy.fleet.group import Group
from deploy.fleet.group_state import GroupState
from deploy.fleet.install import Layout, Report, install, shell_path
from deploy.fleet.record import instance_list
from deploy.fleet.shell import Shell, run_script

_STOP_TIMEOUT_S = 90.0


class HostsBackend:
    """One shell and one agent per host."""

    def __init__(self, fleet: str, shells: Sequence[Shell], layout: Layout, bundle: Bundle | None) -> None:
        self._shells = {shell.host: shell for shell in shells}
        self._fleet = fleet
        self._layout = layout
        self._bundle = bundle
        self._agents = {
            host: AgentClient(shell, agent_script(layout, fleet, host))
            for host, shell in self._shells.items()
        }

    @property
    def hosts(self) -> tuple[str, ...]:
        """As in the cluster file."""
        return tuple(self._shells)

    async def put(self, host: str, report: Report) -> bool:
        """Sources and environment."""
        assert self._bundle is not None
        return await install(self._shells[host], self._layout, self._bundle, report)

    async def start(self, group: Group, secrets: Mapping[str, str]) -> None:
        """The secrets go over the agent's standard input, never over a command line."""
        await self._agents[group.host].ask(
            Start(msgspec.Raw(group.model_dump_json().encode()), dict(secrets)), _STOP_TIMEOUT_S
        )

    async def stop(self, host: str, name: str) -> None:
        """End one group."""
        await self._agents[host].ask(Stop(name), _STOP_TIMEOUT_S)

    async def look(self, host: str) -> tuple[GroupState, ...]:
        """What the host's run folders say."""
        seen = await self._agents[host].ask(Look())
        assert isinstance(seen, Seen)
        return seen.groups

    async def tell(self, host: str, groups: Sequence[Group], drained: Collection[str]) -> None:
        """Write the file that the host's schedulers follow."""
        instances = instance_list(groups, drained)
        entries = [instance.model_dump(mode="json", exclude_defaults=True) for instance in instances]
        await self._agents[host].ask(Tell(msgspec.Raw(msgspec.json.encode(entries))))

    async def logs(self, host: str, known: Mapping[str, int], tail: int) -> Logs:
        """From the run folders."""
        logs = await self._agents[host].ask(ReadLogs(dict(known), tail))
        assert isinstance(logs, Logs)
        return logs

    async def fetch(self, host: str, pages: Mapping[str, str], key: str = "") -> Mapping[str, str]:
        """Asked from the host, for nobody else may be able to. The key goes over the agent's input."""
        fetched = await self._agents[host].ask(Fetch(dict(pages), key))
        assert isinstance(fetched, Fetched)
        return fetched.pages

    async def run(self, host: str, program: str, timeout_s: float) -> str:
        """The program goes in as standard input; needs nothing installed but Python."""
        script = f"{self._layout.prepare}exec {self._layout.setup.python} -"
        return await run_script(self._shells[host], script, program.encode(), timeout_s)

    async def clean_up(self, host: str) -> None:
        """Nothing is left of the fleet; sources and environment stay."""
        folder = fleet_folder(self._layout, self._fleet, host)
        there = await run_script(self._shells[host], f"[ ! -d {folder} ] || echo there")
        if there:
            await self._agents[host].ask(CleanUp(), _STOP_TIMEOUT_S)

    async def close(self) -> None:
        """All at once, for each may take seconds."""
        await asyncio.gather(*(agent.close() for agent in self._agents.values()))
        await asyncio.gather(*(shell.close() for shell in self._shells.values()))


def fleet_folder(layout: Layout, fleet: str, host: str) -> str:
    """Where a host's groups lie, as a word of a shell script. Hosts that share their homes keep apart."""
    return shell_path(layout.folder / "fleets" / fleet / host)


def agent_script(layout: Layout, fleet: str, host: str) -> str:
    """What runs a host's agent."""
    folder = fleet_folder(layout, fleet, host)
    missing = (
        f"[ -d {layout.sources} ] || {{ echo 'not installed: run block-deploy install' >&2; exit 1; }}\n"
    )
    return missing + layout.run("deploy.fleet.agent", "--folder", folder, "--root", '"$PWD"')

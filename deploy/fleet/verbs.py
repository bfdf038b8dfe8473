"""What can be done with a fleet: bring it to what its record asks for, drain, restart, end.

Does not know how a group is started or where; the back end does. What fails on one host is written down and
does not stop the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from block.errors import BlockError
from deploy.fleet.backend import Backend
from deploy.fleet.engine_gauges import read_gauges
from deploy.fleet.group import Group
from deploy.fleet.group_state import GroupState
from deploy.fleet.reach import until_reached
from deploy.fleet.record import FleetRecord
from deploy.fleet.shell import HostError

_POLL_S = 1.0
_QUIET_LOOKS = 2
"""Looks in a row that must find an instance idle: a request may be on its way to it."""
_IDLE_S = 3 * _QUIET_LOOKS * _POLL_S
"""For an instance that was idle a moment ago to be so again."""
_REACH_S = 30.0
"""Schedulers follow their list within a second or two, and poll every instance once a second."""
_UNREACHABLE_LOOKS = 5
"""Looks in a row that a host may miss while its groups start."""

Show = Callable[[str, str], None]
"""Told (group or host, what is being done with it) whenever that changes."""


@dataclass(slots=True)
class Outcome:
    """What became of a verb."""

    ready: dict[str, GroupState] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Group or host -> why."""
    begun: list[Group] = field(default_factory=list)
    """Groups that were started on the way."""


class Fleet:
    """One fleet on its back end."""

    def __init__(self, backend: Backend, show: Show) -> None:
        self._backend = backend
        self._show = show

    async def install(self, outcome: Outcome) -> None:
        """Sources and environment on all hosts, at the same time."""

        async def put(host: str) -> None:
            changed = await self._backend.put(host, lambda doing: self._show(host, doing))
            self._show(host, "installed" if changed else "up to date")

        await self._everywhere(self._backend.hosts, put, outcome)

    async def converge(
        self, record: FleetRecord, secrets: Mapping[str, str], outcome: Outcome, *, renew: bool = True
    ) -> None:
        """Start what is missing, renew what has changed, end what is not wanted.

        What runs with other settings is drained and renewed one after the other, so that the rest serves.
        """
        states = await self.look(outcome)
        wanted = {group.name: group for group in record.groups}
        await self.tell(record, outcome)
        surplus = [state for state in states.values() if not _wanted(state, wanted)]
        await self._end(record, surplus, outcome)
        running = {name: states[name] for name in wanted if name in states and states[name].phase == "ready"}
        outdated = [wanted[name] for name, state in running.items() if state.digest != wanted[name].digest]
        old = {group.name for group in outdated}
        hosts = set(self._backend.hosts) - outcome.failed.keys()
        fresh = [group for group in wanted.values() if group.name not in old and group.host in hosts]
        await self._start(fresh, secrets, outcome)
        if renew and not outcome.failed:
            await self.renew(record, outdated, secrets, outcome)
        if not outcome.failed:
            await self._until_reached(record, outcome)
        _note_unreachable(wanted.values(), outcome)

    async def renew(
        self, record: FleetRecord, groups: Iterable[Group], secrets: Mapping[str, str], outcome: Outcome
    ) -> None:
        """Drain, end and start groups again, one after the other; stops at the first that fails."""
        states = await self.look(outcome)
        for group in groups:
            if group.role == "instance" and group.name in states:
                await self.drain(record, [states[group.name]], outcome)
            self._show(group.name, "ending")
            await self._backend.stop(group.host, group.name)
            await self._start([group], secrets, outcome)
            await self.tell(record, outcome)
            if not outcome.failed:
                # The next one may only go once this one serves again.
                await self._until_reached(record, outcome)
            if outcome.failed:
                return

    async def drain(self, record: FleetRecord, states: list[GroupState], outcome: Outcome) -> bool:
        """Send instances nothing more and wait until they are idle; False when that took too long."""
        drained = (*record.drained, *(state.name for state in states))
        await self.tell(record, outcome, drained)
        return await self._until_idle(states, record.settings.drain_timeout_s)

    async def tell(
        self, record: FleetRecord, outcome: Outcome, drained: tuple[str, ...] | None = None
    ) -> None:
        """Let all schedulers know which instances get requests; ``drained``: others than the record's."""
        groups = record.groups
        silent = record.drained if drained is None else drained
        hosts = {group.host for group in groups if group.role == "scheduler"} - outcome.failed.keys()
        await self._everywhere(hosts, lambda host: self._backend.tell(host, groups, silent), outcome)

    async def end_idle(self, record: FleetRecord, names: Collection[str], outcome: Outcome) -> None:
        """End those of the named instances that are not wanted, as far as they are idle."""
        await self.tell(record, outcome)
        wanted = {group.name: group for group in record.groups}
        for state in (await self.look(outcome)).values():
            named = state.name in names and not _wanted(state, wanted)
            if named and await self._until_idle([state], _IDLE_S):
                self._show(state.name, "ending")
                await self._noting(state.name, self._backend.stop(state.host, state.name), outcome)
                self._show(state.name, "down")

    async def roll_back(self, outcome: Outcome) -> None:
        """End what this verb has started."""
        for group in outcome.begun:
            self._show(group.name, "ending")
            try:
                await self._backend.stop(group.host, group.name)
            except HostError as error:
                outcome.failed.setdefault(group.name, str(error))

    async def clean_up(self, outcome: Outcome) -> None:
        """End everything everywhere."""

        async def clean(host: str) -> None:
            self._show(host, "ending")
            await self._backend.clean_up(host)
            self._show(host, "down")

        await self._everywhere(self._backend.hosts, clean, outcome)

    async def look(self, outcome: Outcome) -> dict[str, GroupState]:
        """All groups of reachable hosts by name."""
        found: dict[str, GroupState] = {}

        async def look(host: str) -> None:
            found.update({state.name: state for state in await self._backend.look(host)})

        await self._everywhere([h for h in self._backend.hosts if h not in outcome.failed], look, outcome)
        return found

    async def _start(self, groups: list[Group], secrets: Mapping[str, str], outcome: Outcome) -> None:
        async def start(group: Group) -> None:
            self._show(group.name, "starting")
            await self._backend.start(group, secrets)
            outcome.begun.append(group)

        await asyncio.gather(*(self._noting(group.name, start(group), outcome) for group in groups))
        await self._until_ready([group for group in groups if group.name not in outcome.failed], outcome)

    async def _until_ready(self, groups: list[Group], outcome: Outcome) -> None:
        """Poll the hosts until each group is ready, has ended, or is late."""
        waiting = {group.name: group for group in groups}
        missed: dict[str, int] = {}
        began_s = dict.fromkeys(waiting, time.monotonic())
        while waiting:
            for host in {group.host for group in waiting.values()}:
                queued = await self._take_over(host, waiting, missed, outcome)
                began_s.update(dict.fromkeys(queued, time.monotonic()))
            for group in list(waiting.values()):
                if time.monotonic() - began_s[group.name] > group.ready_timeout_s:
                    del waiting[group.name]
                    outcome.failed[group.name] = (
                        f"{group.host}: {group.name} was not ready within {group.ready_timeout_s:g} s "
                        "(ready_timeout_s); its log says more"
                    )
            if waiting:
                await asyncio.sleep(_POLL_S)

    async def _take_over(
        self, host: str, waiting: dict[str, Group], missed: dict[str, int], outcome: Outcome
    ) -> list[str]:
        """Take what a host says out of ``waiting``; returns what has not begun to start."""
        mine = [name for name, group in waiting.items() if group.host == host]
        try:
            seen = {state.name: state for state in await self._backend.look(host)}
            missed[host] = 0
        except HostError as error:
            missed[host] = missed.get(host, 0) + 1
            if missed[host] >= _UNREACHABLE_LOOKS:
                for name in mine:
                    del waiting[name]
                    outcome.failed[name] = str(error)
            return []
        for name in mine:
            state = seen.get(name)
            if state is None or state.phase in {"ended", "failed"}:
                reason = state.reason if state else "it has vanished"
                outcome.failed[name] = f"{(state and state.node) or host}: {name}: {reason}"
                self._show(name, "failed")
            elif state.phase == "ready":
                outcome.ready[name] = state
                self._show(name, "ready")
            else:
                self._show(name, state.reason or state.phase)
                continue
            del waiting[name]
        return [name for name in mine if name in seen and seen[name].phase == "waiting"]

    async def _until_reached(self, record: FleetRecord, outcome: Outcome) -> None:
        """Wait until the schedulers send requests to all instances that are in service."""
        ready = [state for state in (await self.look(outcome)).values() if state.phase == "ready"]
        roles = {group.name: group.role for group in record.groups if group.name not in record.drained}
        schedulers = [state for state in ready if roles.get(state.name) == "scheduler"]
        instances = [state.name for state in ready if roles.get(state.name) == "instance"]
        try:
            complaints = await until_reached(self._backend, schedulers, instances, _REACH_S)
        except HostError as error:
            complaints = {"schedulers": str(error)}
        outcome.failed.update(complaints)

    async def _end(self, record: FleetRecord, states: list[GroupState], outcome: Outcome) -> None:
        """Those not wanted any more, which are off the schedulers' lists already."""
        serving = [state for state in states if state.phase == "ready"]
        await self._until_idle(serving, record.settings.drain_timeout_s)
        for state in states:
            self._show(state.name, "ending")
            await self._noting(state.name, self._backend.stop(state.host, state.name), outcome)
            self._show(state.name, "down")

    async def _until_idle(self, states: list[GroupState], timeout_s: float) -> bool:
        """Whether all of them came to be idle in time. One that cannot be asked counts as idle."""
        quiet = {state.name: 0 for state in states if engine_url(state)}
        deadline_s = time.monotonic() + timeout_s
        while min(quiet.values(), default=_QUIET_LOOKS) < _QUIET_LOOKS:
            if time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(_POLL_S)
            for state in states:
                if state.name in quiet:
                    busy = await self._outstanding(state)
                    self._show(state.name, f"draining, {busy} requests left" if busy else "idle")
                    quiet[state.name] = 0 if busy else quiet[state.name] + 1
        return True

    async def _outstanding(self, state: GroupState) -> int:
        page = f"{engine_url(state)}/metrics"
        try:
            pages = await self._backend.fetch(state.host, {page: ""})
        except HostError:
            return 0
        return read_gauges(pages.get(page, "")).outstanding

    async def _everywhere(
        self, hosts: Iterable[str], act: Callable[[str], Awaitable[None]], outcome: Outcome
    ) -> None:
        await asyncio.gather(*(self._noting(host, act(host), outcome) for host in hosts))

    async def _noting(self, name: str, work: Awaitable[None], outcome: Outcome) -> None:
        try:
            await work
        except BlockError as error:
            outcome.failed[name] = str(error)
            self._show(name, "failed")


def engine_url(state: GroupState) -> str:
    """Where its vLLM server is, if it has one that runs."""
    return next((one.url for one in state.processes if one.role == "engine" and one.phase == "ready"), "")


def _wanted(state: GroupState, wanted: Mapping[str, Group]) -> bool:
    group = wanted.get(state.name)
    return group is not None and group.host == state.host


def _note_unreachable(groups: Iterable[Group], outcome: Outcome) -> None:
    for group in groups:
        if group.host in outcome.failed and group.name not in outcome.failed:
            outcome.failed[group.name] = f"{group.name}: not started, for {group.host} failed"

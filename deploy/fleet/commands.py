"""The verbs as coroutines: each reads the record, acts on the back end and writes the record."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec
from rich.console import Console

from block.errors import DeployError
from deploy.fleet.agent_messages import Logs
from deploy.fleet.group import Group
from deploy.fleet.group_state import GroupState
from deploy.fleet.record import FleetFolder, FleetRecord
from deploy.fleet.secret import read_secrets
from deploy.fleet.session import Prepared, failures, fleet_of, opened
from deploy.fleet.verbs import Outcome
from deploy.run_folder import folders_below

_KEPT_LOG_BYTES = 2**20


async def install(fleet: Prepared, console: Console) -> None:
    """Sources and environment on all hosts. Raises DeployError with a line per host that failed."""
    outcome = Outcome()
    async with fleet_of(fleet.record, console, fleet.bundle) as verbs:
        await verbs.install(outcome)
    _raise(outcome)


async def up(fleet: Prepared, console: Console, *, roll_back: bool) -> str:
    """Bring a fleet to what its file asks for; returns its OpenAI base URL.

    What is there and right is left alone. Raises DeployError with a line for everything that failed; the
    rest runs on, or what was begun is ended again with ``roll_back``.
    """
    secrets = read_secrets(fleet.config.secrets)
    outcome = Outcome()
    with fleet.folder.changing():
        before = fleet.folder.read()
        fleet.folder.write(fleet.record)
        async with fleet_of(fleet.record, console, fleet.bundle) as verbs:
            await verbs.install(outcome)
            if not (roll_back and outcome.failed):
                await verbs.converge(fleet.record, secrets, outcome)
            if outcome.failed and roll_back:
                await verbs.roll_back(outcome)
                _write_or_forget(fleet.folder, before)
        _raise(outcome)
        return await base_url(fleet.record)


async def scale(folder: FleetFolder, instances: int, console: Console) -> None:
    """Start further instances, or drain and end the last ones."""
    with folder.changing():
        record = recorded(folder).scaled(instances)
        folder.write(record)
        await _converge(record, console)


async def grow(folder: FleetFolder, count: int, console: Console) -> None:
    """Start so many further instances, and those that should run already."""
    with folder.changing():
        record = recorded(folder).grown(count)
        folder.write(record)
        await _converge(record, console)


async def dismiss(folder: FleetFolder, name: str, console: Console) -> None:
    """Send an instance no more requests, without waiting for those it has; it is not wanted any more."""
    with folder.changing():
        record = recorded(folder)
        _groups(record, name, "instance")
        record = record.without(name)
        folder.write(record)
        await _tell(record, console)


async def tell(folder: FleetFolder, console: Console) -> None:
    """Let all schedulers know once more which instances get requests."""
    with folder.changing():
        await _tell(recorded(folder), console)


async def end_idle(folder: FleetFolder, names: Collection[str], console: Console) -> None:
    """End those of the named instances that are neither wanted nor busy."""
    outcome = Outcome()
    with folder.changing():
        record = recorded(folder)
        async with fleet_of(record, console) as verbs:
            await verbs.end_idle(record, names, outcome)
    _raise(outcome)


async def drain(folder: FleetFolder, name: str, console: Console) -> bool:
    """Send an instance nothing more until the next ``up`` or ``restart``; whether it came to be idle."""
    outcome = Outcome()
    with folder.changing():
        record = recorded(folder)
        _groups(record, name, "instance")
        async with fleet_of(record, console) as verbs:
            states = [state for state in (await verbs.look(outcome)).values() if state.name == name]
            idle = await verbs.drain(record, states, outcome)
        drained = tuple(dict.fromkeys((*record.drained, name)))
        folder.write(msgspec.structs.replace(record, drained=drained))
    _raise(outcome)
    return idle


async def restart(folder: FleetFolder, name: str | None, console: Console) -> None:
    """Renew one group, or all of them, one after the other; drained ones serve again."""
    outcome = Outcome()
    with folder.changing():
        record = recorded(folder)
        groups = _groups(record, name)
        names = {group.name for group in groups}
        record = msgspec.structs.replace(
            record, drained=tuple(each for each in record.drained if each not in names)
        )
        folder.write(record)
        secrets = read_secrets(record.settings.secrets)
        async with fleet_of(record, console) as verbs:
            await verbs.renew(record, groups, secrets, outcome)
    _raise(outcome)


async def down(folder: FleetFolder, console: Console, *, forget: bool) -> None:
    """End everything on all hosts and forget the fleet. Raises DeployError for hosts that could not be
    cleaned; the fleet is remembered then, so that a second ``down`` can go on, unless ``forget``."""
    outcome = Outcome()
    with folder.changing():
        record = recorded(folder)
        if record.settings.keep_logs:
            await _bring_logs(record, folder.path / "logs")
        async with fleet_of(record, console) as verbs:
            await verbs.clean_up(outcome)
        if not outcome.failed or forget:
            folder.forget()
    if (error := failures(outcome)) is not None:
        remedy = (
            "" if forget else f"\n`block-deploy down {folder.name} --forget` gives up what cannot be reached"
        )
        raise DeployError(f"{error}{remedy}")


async def base_url(record: FleetRecord) -> str:
    """Where the first scheduler that is ready answers; empty if none is."""
    async with opened(record) as backend:
        for host in dict.fromkeys(group.host for group in record.groups if group.role == "scheduler"):
            for state in await backend.look(host):
                if state.phase == "ready" and state.name.startswith("scheduler"):
                    return openai_url(state)
    return ""


def openai_url(state: GroupState) -> str:
    """Base URL of a scheduler."""
    return f"http://{state.address}:{state.processes[0].port}/v1"


def recorded(folder: FleetFolder) -> FleetRecord:
    """The record; raises DeployError if there is no fleet."""
    record = folder.read()
    if record is None:
        raise DeployError(f"fleet {folder.name} is not up; `block-deploy up FILE` starts it")
    return record


async def _tell(record: FleetRecord, console: Console) -> None:
    outcome = Outcome()
    async with fleet_of(record, console) as verbs:
        await verbs.tell(record, outcome)
    _raise(outcome)


async def _converge(record: FleetRecord, console: Console) -> None:
    outcome = Outcome()
    secrets = read_secrets(record.settings.secrets)
    async with fleet_of(record, console) as verbs:
        await verbs.converge(record, secrets, outcome, renew=False)
    _raise(outcome)


async def _bring_logs(record: FleetRecord, folder: Path) -> None:
    """The ends of all logs that can be had; what cannot must not keep a fleet up."""
    async with opened(record) as backend:
        for host in backend.hosts:
            try:
                logs = await backend.logs(host, {}, _KEPT_LOG_BYTES)
            except DeployError:
                continue
            _write_logs(folder, logs)


def _write_logs(folder: Path, logs: Logs) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for process, text in logs.text.items():
        (folder / f"{process.replace(' ', '-')}.log").write_text(text, "utf-8")


def _groups(record: FleetRecord, name: str | None, role: str | None = None) -> list[Group]:
    """Those of that name, or all; instances first, so that schedulers have somebody while they change."""
    groups = [group for group in record.groups if role in {None, group.role}]
    chosen = [group for group in groups if name in {None, group.name}]
    if not chosen:
        known = ", ".join(group.name for group in groups)
        raise DeployError(f"no {role or 'group'} {name} in fleet {record.settings.name}; there: {known}")
    return chosen


def _write_or_forget(folder: FleetFolder, record: FleetRecord | None) -> None:
    if record is None:
        folder.forget()
    else:
        folder.write(record)


def _raise(outcome: Outcome) -> None:
    if (error := failures(outcome)) is not None:
        raise error


def find_fleets(run_dir: Path) -> list[FleetFolder]:
    """Fleets that have a record below ``run_dir``. Raises DeployError when it cannot be searched."""
    return [folder for folder in map(FleetFolder, folders_below(run_dir)) if folder.exists]

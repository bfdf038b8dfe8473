"""Whether schedulers have found the instances that they are to send requests to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping

import msgspec

from deploy.fleet.backend import Backend
from deploy.fleet.group_state import GroupState

_POLL_S = 0.5


class _Instance(msgspec.Struct, frozen=True):
    name: str
    healthy: bool


class _Health(msgspec.Struct, frozen=True):
    """What is read of a scheduler's health page."""

    instances: tuple[_Instance, ...]


async def until_reached(
    backend: Backend, schedulers: Collection[GroupState], instances: Collection[str], timeout_s: float
) -> dict[str, str]:
    """Wait until each scheduler finds all ``instances`` healthy; returns scheduler -> complaint of the rest.

    Raises HostError when a host cannot be asked.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        missing = {state: await _missing(backend, state, instances) for state in schedulers}
        complaints = {state.name: _complaint(state, names) for state, names in missing.items() if names}
        if not complaints or time.monotonic() > deadline_s:
            return complaints
        await asyncio.sleep(_POLL_S)


def healthy_in(pages: Mapping[str, str], url: str) -> set[str] | None:
    """Instances that the scheduler at ``url`` takes for healthy; None if its page is no report of ours."""
    page = pages.get(f"{url}/health")
    if page is None:
        return set()  # 503 says that there is none.
    try:
        report = msgspec.json.decode(page, type=_Health)
    except msgspec.DecodeError:
        return None
    return {one.name for one in report.instances if one.healthy}


async def _missing(backend: Backend, state: GroupState, instances: Collection[str]) -> list[str]:
    url = state.processes[0].url
    healthy = healthy_in(await backend.fetch(state.host, {f"{url}/health": ""}), url)
    return [] if healthy is None else sorted(set(instances) - healthy)


def _complaint(state: GroupState, names: list[str]) -> str:
    return (
        f"{state.name} on {state.node or state.host} does not reach {', '.join(names)}; "
        "are the hosts' addresses right, and their ports open to each other?"
    )

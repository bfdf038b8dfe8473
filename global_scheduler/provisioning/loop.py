"""The controller on a running fleet: looks, decides, logs, and lets the fleet change while it looks on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from block.errors import BlockError
from global_scheduler.provisioning.base import Observation
from global_scheduler.provisioning.controller import Controller, Decision

_log = logging.getLogger(__name__)

Log = Callable[[Decision], None]


class Fleet(Protocol):
    """What the controller needs of a fleet; ``deploy.fleet.provisioning`` keeps it."""

    async def look(self) -> Observation:
        """The fleet now. Raises BlockError when it cannot be seen."""
        ...

    async def add(self, count: int) -> None:
        """Start instances and wait until they serve. Raises BlockError for those that do not."""
        ...

    async def drain(self, name: str) -> None:
        """Send an instance nothing more, without waiting for what it has. Raises BlockError."""
        ...

    async def settle(self) -> None:
        """End those that were drained and have become idle. Raises BlockError."""
        ...


async def follow_load(controller: Controller, fleet: Fleet, log: Log, looks: int | None = None) -> None:
    """Look every ``interval_s``, so many times or for ever.

    One change is made at a time. What fails is logged, and decided on anew at the next look. After the last
    look a change that has begun is waited for; when cancelled, it is left to the fleet, whose parts go on by
    themselves.
    """
    change: asyncio.Task[None] | None = None
    try:
        while looks is None or looks > 0:
            if change is not None and change.done():
                await change
                change = None
            begun = await _look(controller, fleet, log, changing=change is not None)
            change = begun or change
            looks = None if looks is None else looks - 1
            if looks != 0:
                await asyncio.sleep(controller.settings.interval_s)
        if change is not None:
            await change
    finally:
        await _give_up(change)


async def _look(
    controller: Controller, fleet: Fleet, log: Log, *, changing: bool
) -> asyncio.Task[None] | None:
    """Returns the change that is begun."""
    try:
        seen = replace(await fleet.look(), changing=changing)
    except BlockError as error:
        _log.warning("the fleet cannot be seen: %s", error)
        return None
    decision = controller.decide(seen)
    log(decision)
    if changing or decision.dry_run:
        return None
    return asyncio.create_task(_make(fleet, decision))


async def _make(fleet: Fleet, decision: Decision) -> None:
    if decision.add:
        await _noting(fleet.add(decision.add), f"adding {decision.add}")
    for name in decision.drain:
        await _noting(fleet.drain(name), f"draining {name}")
    await _noting(fleet.settle(), "ending what is idle")


async def _noting(work: Awaitable[None], doing: str) -> None:
    try:
        await work
    except BlockError as error:
        _log.warning("%s failed: %s", doing, error)


async def _give_up(change: asyncio.Task[None] | None) -> None:
    if change is None or change.done():
        return
    _log.warning("a change was being made; what was begun goes on by itself")
    change.cancel()
    await asyncio.wait([change])

"""A fleet looked at again and again: its groups, and pages of its servers, from all hosts at the same time.

A host that does not answer hides what it has, and nothing else. The connections are kept between looks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack

from block.errors import DeployError
from block.fleet_config import FleetConfig
from deploy.fleet import commands
from deploy.fleet.backend import Backend
from deploy.fleet.group_state import GroupState
from deploy.fleet.record import FleetFolder, FleetRecord
from deploy.fleet.session import opened
from deploy.fleet.shell import HostError

_log = logging.getLogger(__name__)


class Sight:
    """One fleet; holds connections until it is closed."""

    def __init__(self, folder: FleetFolder) -> None:
        self._folder = folder
        self._stack = AsyncExitStack()
        self._backend: Backend | None = None
        self._opened_for: FleetConfig | None = None
        self.hidden: dict[str, str] = {}
        """Hosts that did not answer at the latest look, and why."""

    async def close(self) -> None:
        """Let go of the connections."""
        await self._stack.aclose()

    async def record(self) -> FleetRecord:
        """What should run. Raises DeployError if there is no fleet."""
        record = commands.recorded(self._folder)
        settings = record.settings
        known = self._opened_for
        if known is None or (known.backend, known.setup) != (settings.backend, settings.setup):
            await self._stack.aclose()
            self._backend = await self._stack.enter_async_context(opened(record))
            self._opened_for = settings
        return record

    async def states(self) -> dict[str, GroupState]:
        """All groups that were started, by name. Raises DeployError when no host answers."""
        assert self._backend is not None
        before, self.hidden = self.hidden, {}
        seen = await asyncio.gather(*(self._states_on(host) for host in self._backend.hosts))
        if len(self.hidden) == len(seen):
            raise DeployError("; ".join(self.hidden.values()))
        for host in self.hidden.keys() - before.keys():
            _log.warning("%s; what it has is taken for gone", self.hidden[host])
        return {state.name: state for states in seen for state in states}

    async def pages(self, asked: Iterable[tuple[str, str, str]], key: str = "") -> Mapping[str, str]:
        """Host, URL and body to post -> answers by URL; those that do not answer are missing."""
        by_host: dict[str, dict[str, str]] = {}
        for host, url, body in asked:
            by_host.setdefault(host, {})[url] = body
        found = await asyncio.gather(*(self._pages_of(host, urls, key) for host, urls in by_host.items()))
        return {url: page for pages in found for url, page in pages.items()}

    async def _states_on(self, host: str) -> tuple[GroupState, ...]:
        assert self._backend is not None
        try:
            return await self._backend.look(host)
        except HostError as error:
            self.hidden[host] = str(error)
            return ()

    async def _pages_of(self, host: str, pages: Mapping[str, str], key: str) -> Mapping[str, str]:
        assert self._backend is not None
        try:
            return await self._backend.fetch(host, pages, key)
        except HostError as error:
            _log.warning("%s", error)
            return {}

"""A running fleet as the provisioning controller sees and changes it: through its back end and verbs.

What runs is looked at each time, so that a controller that was ended amid a change, and other verbs, leave
nothing that the next look does not find.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from typing import Self

from rich.console import Console

from block.errors import DeployError
from block.provisioning_config import ProvisioningSettings
from deploy.fleet import commands
from deploy.fleet.engine_gauges import read_gauges
from deploy.fleet.group_state import GroupState
from deploy.fleet.leaving import Leaving
from deploy.fleet.predictor_word import PredictorWord, ask_predictors
from deploy.fleet.record import FleetFolder, FleetRecord
from deploy.fleet.sight import Sight
from deploy.fleet.traffic import Traffic
from deploy.fleet.verbs import engine_url
from global_scheduler.provisioning.base import InstanceSeen, Observation

_log = logging.getLogger(__name__)

States = Mapping[str, GroupState]


class ProvisionedFleet:
    """One fleet. Used within ``async with``, which holds the connections for looking."""

    def __init__(
        self, folder: FleetFolder, settings: ProvisioningSettings, key: str, console: Console
    ) -> None:
        """``key``: what predictors take; empty for none."""
        self._folder = folder
        self._settings = settings
        self._key = key
        self._console = console
        self._sight = Sight(folder)
        self._traffic = Traffic(settings.window_s)
        self._epoch_s = time.time() - time.monotonic()
        """So that times are those of a day, and go on evenly if the clock is set."""
        self._looked = self._adding = False
        self._coming_s: dict[str, float] = {}
        """Since when each is known to be on its way."""
        self._missing: set[str] = set()
        """Instances that should run, do not, and could."""
        self._tried: set[str] = set()
        """Those of them that an ``add`` has tried to start."""
        self._room = 0
        """How many more may be asked for."""
        self._leaving: dict[str, Leaving] = {}
        self._told: set[str] = set()
        """Those of them of which this controller has told the schedulers."""
        self._patience_s = 0.0
        self._silent: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sight.close()

    @property
    def leaving(self) -> tuple[str, ...]:
        """Instances that get no requests any more and have not been ended."""
        return tuple(self._leaving)

    async def kv_blocks(self) -> int:
        """That each engine has, at least. Raises DeployError if no instance tells."""
        record = await self._sight.record()
        serving = _serving(await self._sight.states(), _wanted(record))
        if blocks := (await ask_predictors(self._sight, serving, None, self._key)).kv_blocks:
            return blocks
        raise DeployError(
            f"no predictor of fleet {self._folder.name} tells how many KV blocks its engine has; wait until "
            "an instance is ready, or set engine.num_gpu_blocks"
        )

    async def add(self, count: int) -> None:
        """Start what should run and does not, and others; wait until all schedulers reach them.

        What was tried before is tried again, too, but not counted on.
        """
        others = min(count - len(self._missing - self._tried), self._room)
        self._tried |= self._missing
        self._adding = True
        try:
            await commands.grow(self._folder, max(others, 0), self._console)
        finally:
            self._adding = False

    async def drain(self, name: str) -> None:
        """Take an instance off the schedulers' lists; ``settle`` ends it once it is idle."""
        await commands.dismiss(self._folder, name, self._console)
        self._leaving[name] = Leaving.begun(time.monotonic())
        self._told.add(name)

    async def settle(self) -> None:
        """End those that were taken off the lists and are idle.

        Whoever took them off may have been ended before the schedulers heard of it, so they are told again.
        """
        self._told &= self._leaving.keys()
        if self._leaving.keys() - self._told:
            await commands.tell(self._folder, self._console)
            self._told |= self._leaving.keys()
        now_s = time.monotonic()
        idle = [name for name, one in self._leaving.items() if one.may_end(now_s, self._patience_s)]
        if idle:
            await commands.end_idle(self._folder, idle, self._console)
            self._leaving = {name: one for name, one in self._leaving.items() if name not in idle}

    async def look(self) -> Observation:
        """Ask every engine for its metrics and every predictor for its state and a prediction."""
        record = await self._sight.record()
        states, wanted = await self._sight.states(), _wanted(record)
        serving = _serving(states, wanted)
        pages = await self._metrics(states)
        now_s = self._epoch_s + time.monotonic()
        fresh = self._coming_s.keys() if self._looked else ()
        self._traffic.note(now_s, {state.name: pages.get(state.name, "") for state in serving}, fresh)
        starting_s = self._starting_s(record, states, wanted)
        self._note_leaving(record, states, pages)
        self._looked = True
        size = self._traffic.mean_size
        word = await ask_predictors(self._sight, serving, size, self._key)
        self._complain(serving, word)
        block_size = record.settings.engine.block_size
        return Observation(
            at_s=now_s,
            instances=tuple(
                InstanceSeen(one.name, word.load(one.name, self._traffic.gauges(one.name), size, block_size))
                for one in serving
            ),
            starting_s=starting_s,
            requests=self._traffic.requests,
            sizes=self._traffic.sizes,
            measured_e2e_s=self._traffic.measured_e2e_s,
            predicted_e2e_s=word.least_e2e_s,
            pace=word.pace,
        )

    async def _metrics(self, states: States) -> dict[str, str]:
        """Pages by instance."""
        urls = {name: f"{url}/metrics" for name, state in states.items() if (url := engine_url(state))}
        pages = await self._sight.pages([(states[name].host, url, "") for name, url in urls.items()])
        return {name: pages[url] for name, url in urls.items() if url in pages}

    def _starting_s(self, record: FleetRecord, states: States, wanted: set[str]) -> tuple[float, ...]:
        """In how many seconds those on their way are expected; notes what is missing, too."""
        hidden = {group.name for group in record.groups if group.host in self._sight.hidden}
        there = {name for name in wanted - hidden if name in states}
        coming = {name for name in there if states[name].phase in {"waiting", "starting"}}
        absent = wanted - hidden - there
        if self._adding:
            coming |= absent
        self._missing = (
            absent | {name for name in there if states[name].phase in {"ended", "failed"}}
        ) - coming
        self._tried &= self._missing | coming
        self._room = self._settings.max_instances - len(wanted - hidden)
        now_s = time.monotonic()
        self._coming_s = {name: self._coming_s.get(name, now_s) for name in sorted(coming)}
        expected_s = self._settings.cold_start_s
        return tuple(max(expected_s - (now_s - asked_s), 0.0) for asked_s in self._coming_s.values())

    def _note_leaving(self, record: FleetRecord, states: States, pages: Mapping[str, str]) -> None:
        now_s, kept = time.monotonic(), {group.name for group in record.groups}
        self._patience_s = record.settings.drain_timeout_s
        names = [name for name in states if name.startswith("instance") and name not in kept]
        self._leaving = {name: self._leaving.get(name) or Leaving.begun(now_s) for name in names}
        for name, one in self._leaving.items():
            one.gone = not engine_url(states[name])
            busy = read_gauges(pages[name]).outstanding if name in pages else None
            one.note(now_s, busy)
            if busy and not one.warned and now_s - one.since_s > self._patience_s:
                one.warned = True
                _log.warning(
                    "%s still has %d requests %.0f s after it was taken off the lists; it ends without any",
                    name,
                    busy,
                    now_s - one.since_s,
                )

    def _complain(self, serving: list[GroupState], word: PredictorWord) -> None:
        silent = {state.name for state in serving} - word.states.keys()
        for name in sorted(silent - self._silent):
            _log.warning(
                "the predictor of %s does not answer, so its load is guessed from its engine's counts; is it "
                "up, and does it take the key of scheduler.upstream.predictor_key?",
                name,
            )
        self._silent = silent


def _wanted(record: FleetRecord) -> set[str]:
    """Instances that should get requests."""
    return {group.name for group in record.groups if group.role == "instance"} - set(record.drained)


def _serving(states: States, wanted: Collection[str]) -> list[GroupState]:
    return [state for name, state in states.items() if name in wanted and state.phase == "ready"]

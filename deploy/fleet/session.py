"""One run of a verb: its fleet's record and back end, what is shown meanwhile, and what came of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from block.errors import DeployError
from block.fleet_config import FleetConfig
from deploy.engine_command import missing_model
from deploy.fleet.backend import Backend
from deploy.fleet.backends import open_backend
from deploy.fleet.bundle import Bundle, bundle_of
from deploy.fleet.install import Layout, layout_of
from deploy.fleet.record import FleetFolder, FleetRecord, record_of
from deploy.fleet.verbs import Fleet, Outcome


class Progress:
    """A line whenever something new is done with a group or a host."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_s = time.monotonic()
        self._last: dict[str, str] = {}

    def show(self, name: str, doing: str) -> None:
        """Say it, unless it was the last thing said of ``name``."""
        if self._last.get(name) != doing:
            self._last[name] = doing
            passed_s = time.monotonic() - self._began_s
            self._console.print(f"{passed_s:6.1f} s  {name:14} {doing}", markup=False, highlight=False)


@dataclass(frozen=True)
class Prepared:
    """A fleet as a file asks for it, and what it takes to install it."""

    config: FleetConfig
    record: FleetRecord
    layout: Layout
    bundle: Bundle
    folder: FleetFolder


def prepare(config: FleetConfig, root: Path) -> Prepared:
    """Read what goes to the hosts. Raises ConfigError or DeployError for what is not there."""
    assert config.backend is not None
    model = config.engine.model
    if not model.is_absolute() and (problem := missing_model(root / model)):
        raise DeployError(problem)
    bundle = bundle_of(config, root)
    layout = layout_of(config.backend.folder, config.setup, bundle)
    record = record_of(config, root, layout)
    return Prepared(config, record, layout, bundle, FleetFolder(root / config.run_dir / config.name))


@contextlib.asynccontextmanager
async def opened(record: FleetRecord, bundle: Bundle | None = None) -> AsyncIterator[Backend]:
    """The back end of a fleet, let go of at the end."""
    backend = open_backend(record.settings, record.layout, bundle)
    try:
        yield backend
    finally:
        await backend.close()


@contextlib.asynccontextmanager
async def fleet_of(
    record: FleetRecord, console: Console, bundle: Bundle | None = None
) -> AsyncIterator[Fleet]:
    """The fleet's verbs, shown on ``console``."""
    async with opened(record, bundle) as backend:
        yield Fleet(backend, Progress(console).show)


def failures(outcome: Outcome) -> DeployError | None:
    """All that failed, a line each."""
    lines = list(dict.fromkeys(outcome.failed.values()))
    return DeployError("\n".join(lines)) if lines else None

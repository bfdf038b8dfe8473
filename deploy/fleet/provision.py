"""The verb ``provision``: the controller on one fleet, its log, and what is shown of it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from block.errors import DeployError
from block.fleet_config import FleetConfig
from block.latency.load import load_latency
from deploy.fleet.provisioning import ProvisionedFleet
from deploy.fleet.record import FleetFolder
from global_scheduler.provisioning import Controller, Decision, EngineModel, make_controller
from global_scheduler.provisioning.loop import follow_load


async def provision_fleet(
    config: FleetConfig, root: Path, folder: FleetFolder, console: Console, looks: int | None
) -> None:
    """Follow the load until cancelled, or for so many looks. Raises DeployError if there is no fleet."""
    controller = _controller(config, root)
    settings = config.provisioning
    log = DecisionLog(root / settings.log if settings.log else folder.path / "provisioning.jsonl", console)
    async with ProvisionedFleet(folder, settings.cold_start_s, console) as fleet:
        await follow_load(controller, fleet, log.note, looks)


class DecisionLog:
    """Appends decisions to a file; shows those that are not like the last one."""

    def __init__(self, path: Path, console: Console) -> None:
        self._path = path
        self._console = console
        self._shown = ""

    def note(self, decision: Decision) -> None:
        """One more. Raises DeployError if it cannot be written."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(decision.line + "\n")
        except OSError as error:
            raise DeployError(
                f"{self._path}: {error.strerror}; name another file (--set provisioning.log=FILE)"
            ) from error
        shown = _shown(decision)
        if shown != self._shown:
            self._shown = shown
            self._console.print(shown, markup=False, highlight=False, soft_wrap=True)


def _controller(config: FleetConfig, root: Path) -> Controller:
    latency = config.predictor.latency or config.engine.latency
    engine = EngineModel(config.engine.limits(), load_latency(root / latency))
    return make_controller(config.provisioning, engine)


def _shown(decision: Decision) -> str:
    doing = f"add {decision.add}" if decision.add else f"drain {', '.join(decision.drain)}"
    if not decision.changes:
        doing = f"nothing ({decision.held})" if decision.held else "nothing"
    dry = "dry run: " if decision.dry_run else ""
    return f"{decision.instances} + {decision.starting} instances: {dry}{doing}; {decision.reason}"

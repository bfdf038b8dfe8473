"""The verb ``provision``: the controller on one fleet, its log, and what is shown of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rich.console import Console

from block.errors import ConfigError, DeployError
from block.fleet_config import FleetConfig
from block.latency.load import load_latency
from block.provisioning_config import ProvisioningSettings
from deploy.fleet.commands import recorded
from deploy.fleet.placement import most_instances
from deploy.fleet.provisioning import ProvisionedFleet
from deploy.fleet.record import FleetFolder
from deploy.fleet.secret import predictor_key, read_secrets
from global_scheduler.provisioning import Decision, EngineModel, make_controller
from global_scheduler.provisioning.loop import follow_load


async def provision_fleet(
    config: FleetConfig, root: Path, folder: FleetFolder, console: Console, looks: int | None
) -> None:
    """Follow the load until cancelled, or for so many looks. Raises DeployError if there is no fleet."""
    settings = _bounded(config)
    record = recorded(folder)
    if not settings.dry_run:
        read_secrets(record.settings.secrets)  # For what will be added: better missed now than then.
    path = root / settings.log if settings.log else folder.path / "provisioning.jsonl"
    fleet = ProvisionedFleet(folder, settings, predictor_key(config, root), console)
    alone = contextlib.nullcontext() if settings.dry_run else folder.provisioning()
    with alone:
        async with fleet:
            controller = make_controller(settings, await _engine_model(config, root, fleet))
            bounds = f"{settings.min_instances} to {settings.max_instances} instances"
            _say(console, f"{settings.strategy}, {bounds}; decisions are written to {path}")
            await follow_load(controller, fleet, DecisionLog(path, console).note, looks)
        if fleet.leaving:
            _say(console, f"{', '.join(fleet.leaving)} still had requests; `provision` or `up` ends them")


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
            _say(self._console, shown)


def _bounded(config: FleetConfig) -> ProvisioningSettings:
    """With no more instances than fit. Raises ConfigError where not even the fewest do."""
    settings, room = config.provisioning, most_instances(config)
    if room is None or room >= settings.max_instances:
        return settings
    if room < settings.min_instances:
        raise ConfigError(
            f"provisioning.min_instances = {settings.min_instances}: the hosts have room for {room}; lower "
            "it, add hosts, or say how many each takes (backend.hosts: gpus, instances)"
        )
    return settings.model_copy(update={"max_instances": room})


async def _engine_model(config: FleetConfig, root: Path, fleet: ProvisionedFleet) -> EngineModel:
    """As the file says; KV blocks that it leaves to the engines are asked for."""
    engine = config.engine
    if engine.num_gpu_blocks is None:
        engine = engine.model_copy(update={"num_gpu_blocks": 1 + await fleet.kv_blocks()})
    return EngineModel(engine.limits(), load_latency(root / (config.predictor.latency or engine.latency)))


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _shown(decision: Decision) -> str:
    doing = f"add {decision.add}" if decision.add else f"drain {', '.join(decision.drain)}"
    if not decision.changes:
        doing = f"nothing ({decision.held})" if decision.held else "nothing"
    dry = "dry run: " if decision.dry_run else ""
    return f"{decision.instances} + {decision.starting} instances: {dry}{doing}; {decision.reason}"

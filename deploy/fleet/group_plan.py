"""From a group to the processes of its launcher. Pure; done on the host, for that knows its own paths."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from block.config import EngineSettings, PredictorConfig, SchedulerConfig, SchedulerSettings
from block.settings import Settings
from deploy.engine_command import engine_argv, engine_environment
from deploy.fleet.group import Group, InstancePart, PredictorsPart, SchedulerPart
from deploy.plan import ClusterPlan, ProcessPlan, Role

INSTANCES_FILE = "instances.json"
"""In the folder of a host's groups: the list that its schedulers follow."""
_ANY = "0.0.0.0"


def plan_group(group: Group, folder: Path, root: Path, instances_file: Path | None = None) -> ClusterPlan:
    """``folder``: where the group may write; ``root``: where relative paths of its settings begin.

    ``instances_file``: what a scheduler follows, if not the file beside ``folder``.
    """
    planner = _Planner(group, folder, root)
    name, model = "", root
    if isinstance(group.part, InstancePart):
        processes, configs = planner.instance(group.part)
        name, model = group.part.engine.served_model_name, root / group.part.engine.model
    elif isinstance(group.part, PredictorsPart):
        processes, configs = planner.predictors(group.part)
    else:
        follow = instances_file or folder.parent / INSTANCES_FILE
        processes, configs = planner.scheduler(group.part, follow)
        name = group.part.served_model_name
    return ClusterPlan(
        name=group.name,
        folder=folder,
        socket_folder=planner.sockets,
        processes=processes,
        configs=configs,
        openai_base_url=f"http://{group.address or group.listen}:{group.ports[0]}/v1",
        model=model,
        served_model_name=name,
        ready_timeout_s=group.ready_timeout_s,
    )


class _Planner:
    """What the parts of one group's plan share."""

    def __init__(self, group: Group, folder: Path, root: Path) -> None:
        self.group = group
        self.folder = folder
        self.root = root
        self.sockets = _sockets(folder)

    def instance(self, part: InstancePart) -> tuple[tuple[ProcessPlan, ...], Mapping[Path, Settings]]:
        """An engine, and its predictor or the need for it."""
        engine, feed = self._anchored(part.engine), _feed(self.folder)
        environment = engine_environment(engine) | self._gpus()
        argv = engine_argv(engine, host=self.group.listen, port=part.engine_port, feed=feed)
        process = self._process("engine", self.group.name, argv, part.engine_port, environment)
        if part.predictor is None:
            needs = f"{self.group.predictor_url(self.asked)}/health"
            return (replace(process, needs=needs),), {}
        name = _predictor(self.group.name)
        predictor = PredictorConfig(
            instance=self.group.name,
            feed=feed,
            latency=self.root / (part.predictor.latency or engine.latency),
            host=self.group.listen,
            port=part.predictor_port,
            settings=part.predictor,
        )
        service = self._service("predictor", "predictor.cli", name, part.predictor_port, [name])
        service = replace(service, hangs=part.predictor.hangs)
        return (process, service), {self._config_path(name): predictor}

    def predictors(self, part: PredictorsPart) -> tuple[tuple[ProcessPlan, ...], Mapping[Path, Settings]]:
        """One process that follows the feeds of the groups beside this one, as they come and go."""
        configs = {
            _predictor(instance): PredictorConfig(
                instance=instance,
                feed=_feed(self.folder.with_name(instance)),
                latency=self.root / (part.predictor.latency or part.latency),
                host=self.group.listen,
                port=part.port,
                optional=True,
                settings=part.predictor,
            )
            for instance in part.instances
        }
        service = self._service("predictor", "predictor.cli", self.group.name, part.port, list(configs))
        service = replace(service, hangs=part.predictor.hangs)
        return (service,), {self._config_path(name): config for name, config in configs.items()}

    def scheduler(
        self, part: SchedulerPart, instances: Path
    ) -> tuple[tuple[ProcessPlan, ...], Mapping[Path, Settings]]:
        """One scheduler that follows ``instances``."""
        config = SchedulerConfig(
            instances_file=instances,
            host=self.group.listen,
            port=part.port,
            settings=_anchored_scheduler(part.scheduler, self.root),
        )
        name = self.group.name
        service = self._service("scheduler", "global_scheduler.cli", name, part.port, [name])
        # 503 says that no instance is up yet: the scheduler itself is, and the instances are waited for too.
        service = replace(service, ready_on=frozenset({200, 503}))
        return (service,), {self._config_path(name): config}

    def _service(self, role: Role, module: str, name: str, port: int, configs: Sequence[str]) -> ProcessPlan:
        flags = [word for config in configs for word in ("--config", str(self._config_path(config)))]
        return self._process(role, name, (sys.executable, "-m", module, *flags), port, {})

    def _process(
        self, role: Role, name: str, argv: tuple[str, ...], port: int, env: Mapping[str, str]
    ) -> ProcessPlan:
        return ProcessPlan(
            name=name,
            role=role,
            argv=argv,
            port=port,
            health_url=f"http://{self.asked}:{port}/health",
            log=self.folder / "logs" / f"{name}.log",
            env=env,
            host=self.group.listen,
            restarts=role == "predictor",
        )

    @property
    def asked(self) -> str:
        """The host as its own processes reach it."""
        return "127.0.0.1" if self.group.listen == _ANY else self.group.listen

    def _gpus(self) -> dict[str, str]:
        chosen = ",".join(map(str, self.group.gpus))
        return {"CUDA_VISIBLE_DEVICES": chosen} if chosen else {}

    def _anchored(self, engine: EngineSettings) -> EngineSettings:
        return engine.model_copy(
            update={"model": self.root / engine.model, "latency": self.root / engine.latency}
        )

    def _config_path(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"


def _sockets(folder: Path) -> Path:
    """Of a group's folder; never on a file system that machines share, for it may take no sockets."""
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"block-{digest}"


def _feed(folder: Path) -> str:
    """The state feed of the instance whose group has ``folder``."""
    return f"ipc://{_sockets(folder) / 'feed-0.sock'}"


def _predictor(instance: str) -> str:
    return instance.replace("instance", "predictor")


def _anchored_scheduler(settings: SchedulerSettings, root: Path) -> SchedulerSettings:
    lengths = settings.lengths
    if lengths.model is not None:
        lengths = lengths.model_copy(update={"model": root / lengths.model})
    tokenizer = root / settings.tokenizer if settings.tokenizer else None
    return settings.model_copy(update={"tokenizer": tokenizer, "lengths": lengths})

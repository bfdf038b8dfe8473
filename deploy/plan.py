"""What a cluster consists of, decided before anything starts: processes, ports, resolved configs.

Pure: from a ``ClusterConfig`` to frozen values. Opens no socket, writes no file, asks no clock.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from block.config import (
    ClusterConfig,
    InstanceConfig,
    PredictorConfig,
    SchedulerConfig,
)
from block.errors import ConfigError
from block.operation import HangSettings, TlsSettings
from block.settings import Settings
from deploy.company import Company, companies
from deploy.engine_command import engine_argv, engine_environment

Role = Literal["engine", "predictor", "scheduler"]

_LONGEST_SOCKET_PATH = 100
"""Unix sockets allow 107 bytes; a few are left for what ZMQ may add."""


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """One server process to start."""

    name: str
    role: Role
    argv: tuple[str, ...]
    port: int
    health_url: str
    """Answers 200 when the process is ready."""
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables on top of the launcher's own."""
    host: str = "127.0.0.1"
    ready_on: frozenset[int] = frozenset({200})
    """Statuses of the health URL that mean ready."""
    needs: str = ""
    """Another URL that must answer 200 before it counts as ready, if any: of what another launcher holds."""
    restarts: bool = False
    """Whether it is started again when it ends by itself later; for what holds nothing that could be lost."""
    hangs: HangSettings | None = None
    """When it is ended for not answering; None: never."""


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """A whole cluster to start on this machine."""

    name: str
    folder: Path
    """Everything the cluster writes lies here, but sockets whose path would be too long."""
    socket_folder: Path
    processes: tuple[ProcessPlan, ...]
    configs: Mapping[Path, Settings]
    """Resolved configuration files to write before the start."""
    openai_base_url: str
    model: Path
    served_model_name: str
    ready_timeout_s: float

    @property
    def log_folder(self) -> Path:
        """Where each process writes its log."""
        return self.folder / "logs"


def plan_cluster(config: ClusterConfig, root: Path) -> ClusterPlan:
    """Decide everything about a cluster; relative paths in ``config`` are taken from ``root``.

    Raises ConfigError when two processes would share a port, or a port would be out of range.
    """
    _check_ports(config)
    return _Planner(config, root).plan()


class _Planner:
    """The choices of one plan, shared by its parts."""

    def __init__(self, config: ClusterConfig, root: Path) -> None:
        self.config = config
        self.root = root
        self.folder = root / config.run_dir / config.name
        self.sockets = _socket_folder(self.folder)
        self.scheduler = config.scheduler.anchored(root)
        self.predictor = config.predictor.anchored(root)
        self.engine = config.engine.model_copy(
            update={"model": root / config.engine.model, "latency": root / config.engine.latency}
        )
        self.companies = companies(range(config.instances), config.predictors_per_process)
        self.company_of = {member: company for company in self.companies for member in company.members}

    def plan(self) -> ClusterPlan:
        """Put the parts together."""
        predictors = {i: self._predictor_config(i) for i in range(self.config.instances)}
        scheduler = self._scheduler_config()
        processes = (
            *(self._engine(i, predictor.feed) for i, predictor in predictors.items()),
            *(self._predictors(company) for company in self.companies),
            self._service("scheduler", "scheduler", ["scheduler"], scheduler.port, self.scheduler.tls),
        )
        return ClusterPlan(
            name=self.config.name,
            folder=self.folder,
            socket_folder=self.sockets,
            processes=processes,
            configs={
                **{self._config_path(f"predictor-{i}"): c for i, c in predictors.items()},
                self._config_path("scheduler"): scheduler,
            },
            openai_base_url=f"{_url(self.config.host, scheduler.port, self.scheduler.tls)}/v1",
            model=self.engine.model,
            served_model_name=self.engine.served_model_name,
            ready_timeout_s=self.config.ready_timeout_s,
        )

    def _engine(self, index: int, feed: str) -> ProcessPlan:
        port = self.config.engine_port + index
        argv = engine_argv(self.engine, host=self.config.host, port=port, feed=feed)
        return self._process("engine", _instance(index), argv, port, engine_environment(self.engine))

    def _predictors(self, company: Company) -> ProcessPlan:
        """One process for a company."""
        configs = [f"predictor-{member}" for member in company.members]
        return self._service("predictor", company.name, configs, self._port_of(company), self.predictor.tls)

    def _service(
        self,
        role: Literal["predictor", "scheduler"],
        name: str,
        configs: Sequence[str],
        port: int,
        tls: TlsSettings | None,
    ) -> ProcessPlan:
        module = {"predictor": "predictor.cli", "scheduler": "global_scheduler.cli"}[role]
        flags = [word for config in configs for word in ("--config", str(self._config_path(config)))]
        return self._process(role, name, (sys.executable, "-m", module, *flags), port, {}, tls)

    def _process(
        self,
        role: Role,
        name: str,
        argv: tuple[str, ...],
        port: int,
        env: Mapping[str, str],
        tls: TlsSettings | None = None,
    ) -> ProcessPlan:
        return ProcessPlan(
            name=name,
            role=role,
            argv=argv,
            port=port,
            health_url=f"{_url(self.config.host, port, tls)}/health",
            log=self.folder / "logs" / f"{name}.log",
            env=env,
            host=self.config.host,
            restarts=role == "predictor",
            hangs=self.predictor.hangs if role == "predictor" else None,
        )

    def _predictor_config(self, index: int) -> PredictorConfig:
        settings = self.predictor
        if settings.vidur is not None:
            settings = settings.model_copy(update={"vidur": self.root / settings.vidur})
        return PredictorConfig(
            instance=_instance(index),
            feed=f"ipc://{self.sockets / f'feed-{index}.sock'}",
            latency=settings.latency or self.engine.latency,
            host=self.config.host,
            port=self._port_of(self.company_of[index]),
            settings=settings,
        )

    def _port_of(self, company: Company) -> int:
        return self.config.predictor_port + company.first

    def _predictor_url(self, index: int) -> str:
        company = self.company_of[index]
        base = _url(self.config.host, self._port_of(company), self.predictor.tls)
        return base + company.path(_instance(index))

    def _scheduler_config(self) -> SchedulerConfig:
        host = self.config.host
        return SchedulerConfig(
            instances=tuple(
                InstanceConfig(
                    name=_instance(i),
                    url=f"http://{host}:{self.config.engine_port + i}",
                    predictor_url=self._predictor_url(i),
                )
                for i in range(self.config.instances)
            ),
            host=host,
            port=self.config.scheduler_port,
            settings=self.scheduler,
        )

    def _config_path(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"


def _instance(index: int) -> str:
    return f"instance-{index}"


def _url(host: str, port: int, tls: TlsSettings | None = None) -> str:
    return f"{'http' if tls is None else 'https'}://{host}:{port}"


def _check_ports(config: ClusterConfig) -> None:
    taken: dict[int, str] = {}
    for field_name, count in (
        ("scheduler_port", 1),
        ("engine_port", config.instances),
        ("predictor_port", config.instances),
    ):
        first = getattr(config, field_name)
        if first + count - 1 > 65535:
            raise ConfigError(f"{field_name} = {first}: leaves no room for {count} ports up to 65535")
        for port in range(first, first + count):
            if port in taken:
                raise ConfigError(
                    f"{field_name} = {first}: port {port} is also in the range of {taken[port]}; "
                    f"set them at least {config.instances} apart"
                )
            taken[port] = field_name


def _socket_folder(folder: Path) -> Path:
    longest = folder / "feed-00.sock"
    if len(str(longest)) < _LONGEST_SOCKET_PATH:
        return folder
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"block-{digest}"

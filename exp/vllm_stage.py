"""A stage of real vLLM servers with emulated GPUs, as ``block-deploy`` would start them."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from deploy.cluster_file import load_plan
from deploy.plan import ClusterPlan, ProcessPlan, Role
from deploy.run_folder import RunFolder
from exp.failure_stage import Part, Parts, Stage
from exp.free_port import free_port
from exp.local_model import make_local_model

_ROOT = Path(__file__).resolve().parent.parent
_CLUSTER = _ROOT / "config" / "cluster" / "local.yaml"
MODEL = "llama-2-7b"
_SETTINGS = (
    "scheduler.estimator=max_tokens",
    "scheduler.health_interval_s=0.5",
    "scheduler.health_timeout_s=2.0",
    "scheduler.suspect_after_s=0.5",
    "scheduler.silence_timeout_s=2.0",
)


class VllmStage(Stage):
    """The processes of a cluster plan, without the launcher that would watch over them."""

    def __init__(self, folder: Path, instances: int) -> None:
        """``folder``: for configurations, sockets and logs."""
        make_local_model(MODEL, _ROOT / ".cache" / "models" / MODEL)
        plan = load_plan(_CLUSTER, [*_SETTINGS, f"run_dir={folder}", *_ports()], instances)
        self._folder = RunFolder(plan.folder, plan.socket_folder)
        self._configs = plan.configs
        parts = Parts(_parts(plan, "engine"), _parts(plan, "predictor"), _parts(plan, "scheduler")[0])
        super().__init__(parts, _of(plan, "scheduler")[0].port, [p.port for p in _of(plan, "predictor")], 1)

    async def __aenter__(self) -> Self:
        self._folder.open(self._configs)
        return await super().__aenter__()

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        self._folder.close()


def _ports() -> list[str]:
    return [f"{role}_port={free_port()}" for role in ("scheduler", "engine", "predictor")]


def _of(plan: ClusterPlan, role: Role) -> list[ProcessPlan]:
    return [process for process in plan.processes if process.role == role]


def _parts(plan: ClusterPlan, role: Role) -> list[Part]:
    return [Part(one.name, one.argv, one.log, one.env) for one in _of(plan, role)]

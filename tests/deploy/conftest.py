"""Stand-in servers, clusters of them, and the question of whether anything is left of one."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deploy.plan import ClusterPlan, ProcessPlan
from deploy.state import ClusterState

_STAND_IN = Path(__file__).parent / "stand_in.py"


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    def find(count: int) -> list[int]:
        sockets = [socket.socket() for _ in range(count)]
        try:
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            return [each.getsockname()[1] for each in sockets]
        finally:
            for each in sockets:
                each.close()

    return find


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., ProcessPlan]:
    def build(port: int, *flags: str) -> ProcessPlan:
        name = f"server-{port}"
        return ProcessPlan(
            name=name,
            role="engine",
            argv=(sys.executable, str(_STAND_IN), "--port", str(port), *flags),
            port=port,
            health_url=f"http://127.0.0.1:{port}/health",
            log=tmp_path / "cluster" / "logs" / f"{name}.log",
        )

    return build


@pytest.fixture
def cluster_of(tmp_path: Path) -> Callable[..., ClusterPlan]:
    def build(*processes: ProcessPlan, ready_timeout_s: float = 30.0) -> ClusterPlan:
        return ClusterPlan(
            name="cluster",
            folder=tmp_path / "cluster",
            socket_folder=tmp_path / "cluster",
            processes=processes,
            configs={},
            openai_base_url="http://127.0.0.1:1/v1",
            model=tmp_path,
            served_model_name="stand-in",
            ready_timeout_s=ready_timeout_s,
        )

    return build


@pytest.fixture
def offspring() -> Callable[[int], list[psutil.Process]]:
    """Descendants of a process; of this one, less those that other tests' fixtures had started before."""
    before = set(psutil.Process().children(recursive=True))

    def find(pid: int) -> list[psutil.Process]:
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if pid != os.getpid() or child not in before]

    return find


@pytest.fixture
def family(
    offspring: Callable[[int], list[psutil.Process]],
) -> Callable[[ClusterState], list[psutil.Process]]:
    """All processes of a running cluster: guards, servers and the servers' workers."""
    return lambda state: offspring(state.launcher_pid)


@pytest.fixture
def survivors() -> Callable[[list[psutil.Process]], list[psutil.Process]]:
    """Which processes still run after a moment; one that only waits to be reaped does not."""

    def find(processes: list[psutil.Process]) -> list[psutil.Process]:
        alive = psutil.wait_procs(processes, timeout=15)[1]
        return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]

    return find

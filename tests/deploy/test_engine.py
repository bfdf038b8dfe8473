"""A real vLLM server under its guard: its engine core must not outlive it."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from block.config import ClusterConfig, load_config
from deploy.plan import plan_cluster
from deploy.run_folder import RunFolder
from deploy.state import ClusterState
from exp.local_model import make_local_model

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = Path(__file__).parent / "launcher.py"


@pytest.mark.engine
@pytest.mark.parametrize("victim", ["launcher", "server"])
def test_an_engine_core_does_not_outlive_a_kill(
    victim: str,
    tmp_path: Path,
    free_ports: Callable[[int], list[int]],
    survivors: Callable[[list[psutil.Process]], list[psutil.Process]],
) -> None:
    overrides = {
        "instances": 1,
        "engine_port": free_ports(1)[0],
        "run_dir": str(tmp_path),
        "engine.model": str(make_local_model("llama-2-7b", ROOT / ".cache/models/llama-2-7b")),
    }
    plan = plan_cluster(load_config(ROOT / "config/cluster/local.yaml", ClusterConfig, overrides), ROOT)
    pickled = tmp_path / "plan.pickle"
    pickled.write_bytes(pickle.dumps(replace(plan, processes=plan.processes[:1])))
    launcher = subprocess.Popen([sys.executable, str(LAUNCHER), str(pickled)], stdout=subprocess.DEVNULL)
    try:
        state = wait_until_ready(RunFolder(plan.folder), launcher)
        family = psutil.Process(launcher.pid).children(recursive=True)
        server = psutil.Process(state.processes[0].pid)
        assert len(family) >= 3  # the guard, the server, its engine core
        (server if victim == "server" else psutil.Process(launcher.pid)).send_signal(signal.SIGKILL)
        assert survivors(family) == []
    finally:
        launcher.terminate()
        launcher.wait()


def wait_until_ready(folder: RunFolder, launcher: subprocess.Popen[bytes]) -> ClusterState:
    while launcher.poll() is None:
        if (state := folder.read_state()) and state.ready:
            return state
        time.sleep(0.1)
    raise AssertionError(f"the launcher ended with {launcher.returncode}")

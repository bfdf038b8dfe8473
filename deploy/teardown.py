"""Ending a cluster from outside: its launcher is asked, then made, to end, and everything with it."""

from __future__ import annotations

import psutil

from block.errors import DeployError
from deploy.run_folder import RunFolder, launcher_of

_DEADLINE_S = 20.0
"""Longer than the launcher itself gives its processes."""
_AFTER_KILL_S = 15.0


def take_down(folder: RunFolder) -> bool:
    """End the cluster of a run folder; False when none runs there.

    Raises DeployError when something of it survives even force.
    """
    state = folder.read_state()
    launcher = launcher_of(state) if state else None
    if launcher is None:
        return False
    family = [launcher, *_descendants(launcher)]
    launcher.terminate()
    alive = _wait(family, _DEADLINE_S)
    if launcher in alive:
        # The guards see their leash close and end the servers.
        launcher.kill()
        alive = _wait(alive, _AFTER_KILL_S)
    for process in alive:
        process.kill()
    if survivors := _wait(alive, _AFTER_KILL_S):
        raise DeployError(f"processes {[p.pid for p in survivors]} of {folder.path.name} could not be ended")
    folder.sweep()
    return True


def _descendants(launcher: psutil.Process) -> list[psutil.Process]:
    try:
        return launcher.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _wait(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    return list(psutil.wait_procs(processes, timeout=timeout_s)[1])

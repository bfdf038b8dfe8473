"""The groups of one fleet on this host: started, seen and ended through their run folders.

``<folder>/<group>/`` is the run folder of a group's launcher, and holds ``group.json``: the group and the
process id of its launcher.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil

from block.config import parse_config
from block.errors import ConfigError, DeployError
from deploy.fleet.group import Group
from deploy.fleet.group_state import GroupPhase, GroupState
from deploy.log_file import last_meaningful_line, read_tail
from deploy.run_folder import RunFolder
from deploy.state import ClusterState
from deploy.teardown import take_down

MARK = "BLOCK_DEPLOY_GROUP"
"""Variable in the environment of all processes of a group, by which they are known."""
_LAUNCHER_END_S = 25.0
_MARKED_S = 5.0
_OWN = "block-deploy: "


class Started(msgspec.Struct, frozen=True):
    """``group.json``."""

    group: msgspec.Raw
    digest: str
    launcher_pid: int = 0


class GroupFolder:
    """The groups below one folder; each method looks at the files and processes as they are now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, group: Group, root: Path, secrets: Mapping[str, str]) -> None:
        """Start a launcher for the group, or leave it in peace if it runs as it should; does not wait.

        The secrets go into the launcher's environment and nowhere else.
        """
        present = self.look(group.name)
        if present is not None and present.digest == group.digest and present.phase in {"starting", "ready"}:
            return
        self.stop(group.name, keep_logs=True)
        home = self.folder / group.name
        home.mkdir(parents=True, exist_ok=True)
        started = Started(msgspec.Raw(group.model_dump_json().encode()), group.digest)
        write_whole(home / "group.json", msgspec.json.encode(started))
        argv = [sys.executable, "-m", "deploy.fleet.launcher", str(home), "--root", str(root)]
        with (home / "launcher.log").open("wb") as log:
            launcher = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **secrets, MARK: str(home)},
            )
        started = msgspec.structs.replace(started, launcher_pid=launcher.pid)
        write_whole(home / "group.json", msgspec.json.encode(started))
        _until_marked(launcher, home)

    def stop(self, name: str, *, keep_logs: bool = False) -> None:
        """End a group and whatever is left of one; its folder goes too, unless its logs are to stay.

        Raises DeployError when something survives even force.
        """
        home = self.folder / name
        started = _started(home)
        if started is not None and _is_ours(started.launcher_pid, home) and not take_down(RunFolder(home)):
            # A launcher that has not come as far as to write its state.
            _end([psutil.Process(started.launcher_pid)])
        _end(_marked(home))
        (home / "group.json").unlink(missing_ok=True)
        if home.exists():
            RunFolder(home).sweep()
        if not keep_logs:
            shutil.rmtree(home, ignore_errors=True)

    def look_at_all(self) -> tuple[GroupState, ...]:
        """Every group that was started and not stopped."""
        homes = sorted(self.folder.glob("*/group.json"))
        return tuple(state for path in homes if (state := self.look(path.parent.name)) is not None)

    def look(self, name: str) -> GroupState | None:
        """One group; None if it was not started."""
        home = self.folder / name
        started = _started(home)
        if started is None:
            return None
        group = group_of(started)
        state = RunFolder(home).read_state()
        if state is None and _is_ours(started.launcher_pid, home):
            return GroupState(name, started.digest, group.host, "starting", address=group.address)
        if state is None:
            said = last_words(home / "launcher.log") or "its launcher is gone"
            return GroupState(name, started.digest, group.host, "ended", said)
        return _of_cluster(group, started.digest, state)

    def logs(self, name: str) -> dict[str, Path]:
        """Log files of one group by process."""
        home = self.folder / name
        launcher = home / "launcher.log"
        found = {path.stem: path for path in RunFolder(home).log_files()}
        return {**found, f"launcher of {name}": launcher} if launcher.exists() else found


def group_of(started: Started) -> Group:
    """The group that was started."""
    return parse_config(msgspec.json.decode(started.group), Group, "group.json")


def read_started(home: Path) -> Started:
    """What is to run in a group's folder. Raises DeployError when nothing is."""
    started = _started(home)
    if started is None:
        raise DeployError(f"{home}: no group was started there")
    return started


def last_words(log: Path) -> str:
    """Why a launcher ended, by its own account if it gave one."""
    own = [line for line in read_tail(log).splitlines() if line.startswith(_OWN)]
    return own[-1].removeprefix(_OWN) if own else last_meaningful_line(log)


def write_whole(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file in one step; only this user may read it unless told otherwise."""
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    fresh.replace(path)


def _of_cluster(group: Group, digest: str, state: ClusterState) -> GroupState:
    dead = [process for process in state.processes if process.phase == "ended"]
    phase: GroupPhase = "failed" if dead else "ready" if state.ready else "starting"
    reason = "; ".join(f"{one.name} ended with code {one.exit_code}" for one in dead)
    address = group.address or group.listen
    return GroupState(
        group.name,
        digest,
        group.host,
        phase,
        reason,
        address=address,
        processes=state.processes,
        predictor_url=group.predictor_url(address),
    )


def _started(home: Path) -> Started | None:
    try:
        return msgspec.json.decode((home / "group.json").read_bytes(), type=Started)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, ConfigError) as error:
        raise DeployError(f"{home / 'group.json'}: damaged ({error}); remove the file") from error


def _is_ours(pid: int, home: Path) -> bool:
    """Whether a process is this group's, and not a later one with its number."""
    try:
        process = psutil.Process(pid) if pid else None
        if process is None or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get(MARK) == str(home)
    except psutil.Error:
        return False


def _until_marked(launcher: subprocess.Popen[bytes], home: Path) -> None:
    """Wait until the system shows the launcher's environment: for a moment after its start there is none, and
    whoever looked then would take it for somebody else's."""
    deadline_s = time.monotonic() + _MARKED_S
    while launcher.poll() is None and not _is_ours(launcher.pid, home) and time.monotonic() < deadline_s:
        time.sleep(0.005)


def _marked(home: Path) -> list[psutil.Process]:
    """All processes of a group, wherever they have got to."""
    return [process for process in psutil.process_iter() if _is_ours(process.pid, home)]


def _end(processes: list[psutil.Process]) -> None:
    deadline_s = time.monotonic() + _LAUNCHER_END_S
    for process in processes:
        _tell(process, "terminate")
    _, alive = psutil.wait_procs(processes, timeout=max(0.0, deadline_s - time.monotonic()))
    for process in alive:
        _tell(process, "kill")
    _, alive = psutil.wait_procs(alive, timeout=5.0)
    if alive:
        raise DeployError(f"processes {[process.pid for process in alive]} could not be ended")


def _tell(process: psutil.Process, what: str) -> None:
    try:
        getattr(process, what)()
    except psutil.NoSuchProcess:
        return

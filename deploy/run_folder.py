"""The one folder of a running cluster: logs, resolved configs, sockets, state, and the lock.

Knows files only; what runs is the launcher's business. The lock is held by the launcher for its
whole life and freed by the kernel when it dies in whatever way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import psutil
import yaml

from block.errors import DeployError
from block.settings import Settings
from deploy.state import ClusterState


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Translate what the file system refuses into one line that names the place and the remedy."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise DeployError(
            f"{where}: {error.strerror}; check its permissions or use another folder "
            "(up: --set run_dir=FOLDER, else --run-dir FOLDER)"
        ) from error


class RunFolder:
    """``run/<cluster name>/`` and the socket folder that belongs to it.

    Every method raises DeployError when the file system refuses.
    """

    def __init__(self, path: Path, socket_folder: Path | None = None) -> None:
        self.path = path
        self.logs = path / "logs"
        self._sockets = socket_folder or path
        self._state_path = path / "state.json"
        self._lock_path = path / "lock"
        self._lock: int | None = None

    @property
    def was_used(self) -> bool:
        """Whether a launcher has ever held the folder."""
        with _explained(self.path):
            try:
                self._lock_path.stat()
            except FileNotFoundError:
                return False
            return True

    @property
    def end_command(self) -> str:
        """What ends the cluster, from any working directory if the folder's path is absolute."""
        return f"block-deploy down {self.path.name} --run-dir {self.path.parent}"

    def already_up(self) -> DeployError:
        """What to raise when the cluster would be started a second time."""
        return DeployError(f"cluster {self.path.name} is already up; `{self.end_command}` ends it")

    def create(self) -> None:
        """Make the folder if it is not there; takes nothing."""
        with _explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def open(self, configs: Mapping[Path, Settings]) -> None:
        """Take the lock, drop what an earlier run left, write the resolved configs.

        Raises DeployError when a launcher already holds the folder.
        """
        self.create()
        with _explained(self.path):
            if not self._try_lock():
                raise self.already_up()
            self._state_path.unlink(missing_ok=True)
            shutil.rmtree(self.logs, ignore_errors=True)
            self.logs.mkdir()
            self._open_sockets()
            for path, settings in configs.items():
                write_config(path, settings)

    def sweep(self) -> None:
        """Remove what a launcher left that could not close; nothing when another one holds the folder."""
        with _explained(self.path):
            if self._try_lock():
                self.close()

    def close(self) -> None:
        """Remove state and sockets, free the lock; the logs stay. Nothing when the lock is not held."""
        if self._lock is None:
            return
        with _explained(self.path):
            self._state_path.unlink(missing_ok=True)
            for socket in self._sockets.glob("feed-*.sock"):
                socket.unlink(missing_ok=True)
        if self._sockets != self.path:
            shutil.rmtree(self._sockets, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def write_state(self, state: ClusterState) -> None:
        """Replace the state in one step, so that a reader never sees half of it."""
        fresh = self._state_path.with_suffix(".new")
        with _explained(self.path):
            fresh.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2))
            fresh.replace(self._state_path)

    def read_state(self) -> ClusterState | None:
        """The state of the running launcher; None when there is none.

        Changes nothing: what a dead launcher left is for the next one, which holds the lock.
        """
        if (written := self._read()) is None:
            return None
        try:
            state = msgspec.json.decode(written, type=ClusterState)
        except msgspec.DecodeError as error:
            raise DeployError(f"{self._state_path}: damaged ({error}); remove the file") from error
        return None if launcher_of(state) is None else state

    def log_files(self) -> list[Path]:
        """One per process, also after the cluster has ended, by name."""
        with _explained(self.logs):
            try:
                return sorted(path for path in self.logs.iterdir() if path.suffix == ".log")
            except FileNotFoundError:
                return []

    def _read(self) -> bytes | None:
        with _explained(self._state_path):
            try:
                return self._state_path.read_bytes()
            except FileNotFoundError:
                return None

    def _try_lock(self) -> bool:
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def _open_sockets(self) -> None:
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._sockets.stat()
        if self._sockets != self.path and (
            found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077
        ):
            # A folder in the shared temporary directory may be somebody else's trap.
            raise DeployError(
                f"{self._sockets}: not private to this user; remove it or set a shorter run_dir"
            )


def write_config(path: Path, settings: Settings) -> None:
    """A resolved configuration, as our services read it."""
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), "utf-8")


def launcher_of(state: ClusterState) -> psutil.Process | None:
    """The launcher's process if it still runs."""
    try:
        process = psutil.Process(state.launcher_pid)
        if abs(process.create_time() - state.launcher_start_s) > 1.0:
            return None
        return process if process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def find_run_folders(run_dir: Path) -> list[RunFolder]:
    """Folders under ``run_dir`` in which a cluster has run, by name; none when there is no such folder.

    Raises DeployError when the folder cannot be searched.
    """
    return [folder for folder in map(RunFolder, folders_below(run_dir)) if folder.was_used]


def folders_below(run_dir: Path) -> list[Path]:
    """By name; none when there is no such folder. Raises DeployError when it cannot be searched."""
    with _explained(run_dir):
        try:
            return sorted(path for path in run_dir.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []

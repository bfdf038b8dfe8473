"""A real Slurm on this machine, without systemd: munged, slurmctld, several slurmds; ended with the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from port_row import ports_in_a_row

_READY_S = 60.0
_CONFIG = """\
ClusterName=block
SlurmctldHost={host}
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
ReturnToService=2
SlurmdTimeout=10
KillWait=15
SlurmdParameters=config_overrides
MinJobAge=60
RebootProgram=/bin/true
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] CPUs=5
PartitionName=main Nodes=n[1-{nodes}] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


@dataclass
class SlurmWorld:
    """Daemons of one Slurm."""

    folder: Path
    nodes: int
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Under which Slurm's commands find it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start_node(self, name: str) -> None:
        """Boot a node."""
        conf = str(self.folder / "slurm.conf")
        self._start(name, ["slurmd", "-D", "-f", conf, "-N", name])

    def kill_node(self, name: str) -> None:
        """Pull the plug: the node's daemon and all jobs that run on it."""
        daemon = self.daemons.pop(name)
        daemon.kill()
        daemon.wait()
        # All of a job has the node's name in its environment. Its step daemon goes first: it would tell.
        jobs = [process for process in psutil.process_iter() if _node_of(process) == name]
        steps = {parent.pid for job in jobs for parent in job.parents() if parent.name() == "slurmstepd"}
        for pid in [*steps, *(job.pid for job in jobs)]:
            _kill(pid)

    def run(self, *argv: str) -> str:
        """One of Slurm's commands."""
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={**os.environ, **self.environment},
        )
        return done.stdout

    def _start(self, name: str, argv: list[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                argv,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **self.environment},
            )


def _node_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("SLURMD_NODENAME", "")
    except psutil.Error:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _descendants(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


@contextmanager
def slurm_world(folder: Path, nodes: int) -> Iterator[SlurmWorld]:
    """``nodes`` idle nodes inside."""
    world = SlurmWorld(folder, nodes)
    ports = ports_in_a_row(nodes + 1)
    host = socket.gethostname().partition(".")[0]
    (folder / "state").mkdir(parents=True)
    (folder / "slurm.conf").write_text(
        _CONFIG.format(
            host=host,
            folder=folder,
            nodes=nodes,
            controller_port=ports,
            first_port=ports + 1,
            last_port=ports + nodes,
        )
    )
    try:
        _start_munge(world)
        world._start("slurmctld", ["slurmctld", "-D", "-f", str(folder / "slurm.conf")])
        for index in range(1, nodes + 1):
            world.start_node(f"n{index}")
        _await_idle(world)
        yield world
    finally:
        for name in list(world.daemons):
            if name.startswith("n") or name == "slurmctld":
                _end(world.daemons.pop(name))
        for daemon in world.daemons.values():
            _end(daemon)


def _start_munge(world: SlurmWorld) -> None:
    key = world.folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    socket_path = world.folder / "munge.socket"
    world._start(
        "munged",
        [
            *("munged", "--foreground", "--force"),
            *(f"--socket={socket_path}", f"--key-file={key}"),
            *(f"--pid-file={world.folder}/munged.pid", f"--log-file={world.folder}/munged.log"),
            f"--seed-file={world.folder}/munged.seed",
        ],
    )
    _until(socket_path.exists, "munged has no socket")


def _await_idle(world: SlurmWorld) -> None:
    def idle() -> bool:
        try:
            states = world.run("sinfo", "--noheader", "--Node", "--format=%T").split()
        except subprocess.CalledProcessError:
            return False
        return states == ["idle"] * world.nodes

    _until(idle, "the nodes are not idle")


def _until(condition: object, complaint: str) -> None:
    deadline_s = time.monotonic() + _READY_S
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline_s:
            raise TimeoutError(complaint)
        time.sleep(0.2)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    for pid in _descendants(daemon.pid) if daemon.poll() is None else ():
        _kill(pid)
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()

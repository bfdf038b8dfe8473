"""Hosts for tests: OpenSSH's real sshd, each in namespaces of its own where that is permitted.

With namespaces a host has its own network address, process table, disk and name, and killing it kills all
that runs on it, at once. Elsewhere hosts are sshds on addresses of the loopback network, and killing one
kills the processes of its groups.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from deploy.fleet.group_folder import MARK

SSHD = "/usr/sbin/sshd"
_READY_S = 20.0
_DISK = Path("/mnt")
"""Where a host of its own namespaces finds its own disk."""


@dataclass
class SshHost:
    """One host. ``port`` is its sshd's."""

    name: str
    address: str
    port: int
    folder: Path
    namespace: str | None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Boot it."""
        log = (self.folder / "sshd.log").open("ab")
        command = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        if self.namespace:
            disk = f"mount --bind {self.folder / 'disk'} {_DISK}"
            boot = f"hostname {self.name} && {disk} && exec {' '.join(command)}"
            command = [
                *("ip", "netns", "exec", self.namespace),
                *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts"),
                *("/bin/sh", "-c", boot),
            ]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        log.close()
        _wait_for(self.address, self.port)

    def kill(self) -> None:
        """Pull the plug."""
        assert self.process is not None
        groups = [] if self.namespace else self._group_processes()
        for process in groups:
            process.kill()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(groups, timeout=10)

    def _group_processes(self) -> list[psutil.Process]:
        return [each for each in psutil.process_iter() if f"/{self.name}/" in _mark(each)]


def _mark(process: psutil.Process) -> str:
    try:
        return process.environ().get(MARK, "")
    except psutil.Error:
        return ""


def group_processes(fleet: str) -> list[str]:
    """All processes of a fleet's groups that this machine sees, namespaces included."""
    marks = {each.pid: _mark(each) for each in psutil.process_iter()}
    return [f"{pid} {mark}" for pid, mark in marks.items() if f"/fleets/{fleet}/" in mark]


@dataclass
class SshWorld:
    """Several hosts and the keys to them."""

    folder: Path
    hosts: dict[str, SshHost] = field(default_factory=dict)

    @property
    def identity(self) -> Path:
        """Private key that all of them accept."""
        return self.folder / "id"

    @property
    def known_hosts(self) -> Path:
        """Their own keys."""
        return self.folder / "known_hosts"

    @property
    def isolated(self) -> bool:
        """Whether each host has a disk of its own."""
        return any(host.namespace for host in self.hosts.values())

    @property
    def deploy_folder(self) -> Path:
        """For the cluster file: a folder that each host has for itself, where it can."""
        return (_DISK if self.isolated else self.folder) / "block-deploy"

    def seen_from_here(self, name: str) -> Path:
        """The same folder of one host, as this machine sees it."""
        host = self.hosts[name]
        return (host.folder / "disk" if host.namespace else self.folder) / "block-deploy"


@contextmanager
def ssh_world(folder: Path, count: int) -> Iterator[SshWorld]:
    """``count`` hosts that are up inside, and gone after it."""
    world = SshWorld(folder)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(world.identity))
    Path("/run/sshd").mkdir(exist_ok=True)
    isolated = _namespaces_are_permitted()
    bridge = f"blk{os.getpid() % 100_000}"
    subnet = f"10.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
    try:
        if isolated:
            _run("ip", "link", "add", bridge, "type", "bridge")
            _run("ip", "address", "add", f"{subnet}.1/24", "dev", bridge)
            _run("ip", "link", "set", bridge, "up")
        for index in range(count):
            host = _make_host(world, index, bridge if isolated else None, subnet)
            world.hosts[host.name] = host
            host.start()
        yield world
    finally:
        for host in world.hosts.values():
            if host.process is not None and host.process.poll() is None:
                host.kill()
            if host.namespace:
                subprocess.run(["ip", "netns", "delete", host.namespace], check=False)
        if isolated:
            subprocess.run(["ip", "link", "delete", bridge], check=False)


def _make_host(world: SshWorld, index: int, bridge: str | None, subnet: str) -> SshHost:
    name = f"host{index}"
    folder = world.folder / name
    (folder / "disk").mkdir(parents=True)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host_key"))
    namespace = f"{bridge}-{index}" if bridge else None
    address, port = (f"{subnet}.{10 + index}", 22) if bridge else (f"127.0.0.{2 + index}", _free_port())
    if namespace and bridge:
        _join(namespace, bridge, f"{address}/24", f"{bridge}-{index}")
    (folder / "sshd_config").write_text(
        f"ListenAddress {address}:{port}\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {world.identity}.pub\nStrictModes no\nPasswordAuthentication no\n"
        "PermitRootLogin yes\nMaxSessions 20\nMaxStartups 50\n"
    )
    key = (folder / "host_key.pub").read_text().rsplit(" ", 1)[0]
    with world.known_hosts.open("a") as known:
        known.write(f"{address} {key}\n" if port == 22 else f"[{address}]:{port} {key}\n")
    return SshHost(name, address, port, folder, namespace)


def _join(namespace: str, bridge: str, address: str, link: str) -> None:
    _run("ip", "netns", "add", namespace)
    _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    _run("ip", "link", "set", link, "master", bridge, "up")
    _run("ip", "-n", namespace, "link", "set", "lo", "up")
    _run("ip", "-n", namespace, "address", "add", address, "dev", "eth0")
    _run("ip", "-n", namespace, "link", "set", "eth0", "up")


def _namespaces_are_permitted() -> bool:
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    tried = f"blktry{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", tried], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "delete", tried], capture_output=True, check=False)
    unshared = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--uts", "true"],
        capture_output=True,
        check=False,
    )
    return made.returncode == 0 and unshared.returncode == 0


def _wait_for(address: str, port: int) -> None:
    deadline_s = time.monotonic() + _READY_S
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)

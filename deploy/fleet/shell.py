"""How a shell is reached on a host: here, or through the system's OpenSSH. Knows nothing of fleets.

The one seam between this program and other machines: a ``Shell`` turns a script into a command of this
machine; scripts are for POSIX sh and get no terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from block.errors import DeployError
from block.fleet_config import HostConfig, SshBackend

_ALIVE_EVERY_S = 5
_ALIVE_MISSED = 3
_END_MASTER_S = 5.0
_SSH_FAILED = 255


class HostError(DeployError):
    """A host cannot be reached or refuses; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A script that has ended."""

    code: int
    output: str
    errors: str


class Shell(Protocol):
    """A way to run scripts on one host."""

    host: str

    def command(self, script: str) -> list[str]:
        """The command of this machine that runs ``script`` there."""
        ...

    def explain(self, code: int, errors: str) -> str:
        """One line on why a command failed, with a remedy if one is known."""
        ...

    async def close(self) -> None:
        """Leave nothing behind."""
        ...


class LocalShell:
    """This machine."""

    def __init__(self, host: str) -> None:
        self.host = host

    def command(self, script: str) -> list[str]:
        """A shell of its own."""
        return ["/bin/sh", "-c", script]

    def explain(self, code: int, errors: str) -> str:
        """Its last words."""
        return _last_words(errors) or f"exit code {code}"

    async def close(self) -> None:
        """Nothing is held."""


class SshShell:
    """One host through ``ssh``: one connection for all commands, no questions, known hosts only."""

    def __init__(self, backend: SshBackend, host: HostConfig) -> None:
        self.host = host.name
        self._folder = Path(tempfile.mkdtemp(prefix="block-ssh-"))
        self._target = host.ssh or host.reached_by
        self._options = [
            *("-o", "BatchMode=yes"),
            *("-o", f"ConnectTimeout={backend.connect_timeout_s}"),
            *("-o", f"ServerAliveInterval={_ALIVE_EVERY_S}", "-o", f"ServerAliveCountMax={_ALIVE_MISSED}"),
            *("-o", "ControlMaster=auto", "-o", f"ControlPath={self._folder}/%C"),
            *("-o", "ControlPersist=60"),
        ]
        if backend.user:
            self._options += ["-l", backend.user]
        if host.port:
            self._options += ["-p", str(host.port)]
        if backend.identity:
            self._options += ["-i", str(backend.identity.expanduser()), "-o", "IdentitiesOnly=yes"]
        if backend.known_hosts:
            self._options += ["-o", f"UserKnownHostsFile={backend.known_hosts.expanduser()}"]

    def command(self, script: str) -> list[str]:
        """The login shell over there may be any; it is told to run sh."""
        return ["ssh", "-T", *self._options, "--", self._target, f"exec /bin/sh -c {_quoted(script)}"]

    def explain(self, code: int, errors: str) -> str:
        """Why, and for what ssh itself says, what to do."""
        said = _last_words(errors) or f"exit code {code}"
        if code != _SSH_FAILED:
            return said
        remedy = next((text for phrase, text in _REMEDIES.items() if phrase in errors), "")
        return f"ssh {self._target}: {said}{remedy and '; ' + remedy}"

    async def close(self) -> None:
        """End the shared connection."""
        if any(self._folder.iterdir()):
            argv = ["ssh", *self._options, "-O", "exit", "--", self._target]
            with contextlib.suppress(TimeoutError):
                await _ended(argv, None, _END_MASTER_S)
        shutil.rmtree(self._folder, ignore_errors=True)


_REMEDIES = {
    "Host key verification failed": "log in once by hand to get to know the host, or set known_hosts",
    "Permission denied": "give this user a key there (ssh-copy-id) and load it (ssh-add), or set identity",
    "Could not resolve hostname": "check the host's ssh and address in the cluster file",
    "timed out": "is it up, and its sshd reachable from here?",
    "Connection refused": "is its sshd running, and the port right?",
    "No route to host": "is it up, and reachable from here?",
}
"""What ssh says -> what to do."""


async def run_script(shell: Shell, script: str, stdin: bytes | None = None, timeout_s: float = 60) -> str:
    """Run a script on a host; returns what it wrote. Raises HostError when it fails or takes too long."""
    try:
        done = await _ended(shell.command(script), stdin, timeout_s)
    except TimeoutError as error:
        raise HostError(f"{shell.host}: no answer within {timeout_s:g} s") from error
    if done.code != 0:
        raise HostError(f"{shell.host}: {shell.explain(done.code, done.errors or done.output)}")
    return done.output


async def _ended(argv: list[str], stdin: bytes | None, timeout_s: float) -> Completed:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # A Ctrl-C is ours to handle, and a kill reaches what the script began.
        )
    except FileNotFoundError as error:
        raise DeployError(f"{argv[0]} is not installed on this machine") from error
    try:
        async with asyncio.timeout(timeout_s):
            output, errors = await process.communicate(stdin)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    assert process.returncode is not None
    return Completed(process.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))


def _quoted(script: str) -> str:
    return "'" + script.replace("'", "'\\''") + "'"


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300].rstrip(".") if lines else ""

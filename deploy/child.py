"""Guard of one server process: starts it, and leaves nothing of its family behind.

Run as a script, with a socket to the launcher as standard input (the leash). The launcher sends one
JSON line ``{"argv": [...], "env": {...}, "grace_s": 10}``; the guard answers ``{"pid": n}`` and, at
the end, ``{"exit": code}``. The server is asked to end (SIGTERM, then SIGKILL after the grace) when
the leash closes - which the kernel does even when the launcher is killed - or when the guard gets
SIGTERM. When the server has ended, whatever is left of its process group is killed: a vLLM server
killed by force would otherwise leave its engine core running.

Needs only the standard library, and imports little of it: one guard runs per server.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

_SET_PARENT_DEATH_SIGNAL = 1
_SET_CHILD_SUBREAPER = 36
_REAP_LIMIT_S = 5.0


def main() -> int:
    """Guard one server until it has ended; returns its exit code as a shell would."""
    leash = socket.socket(fileno=os.dup(0))
    request = leash.makefile("r").readline()
    if not request:
        return 0
    wake = _wake_on_signals()
    # Orphans of the server come back to the guard, so that it can wait for their end.
    _prctl(_SET_CHILD_SUBREAPER, 1)
    spec = json.loads(request)
    guard = Guard(leash, wake, _start(spec), float(spec["grace_s"]))
    return guard.run()


class Guard:
    """Watches one server process, which leads its own process group."""

    def __init__(self, leash: socket.socket, wake: socket.socket, server: int, grace_s: float) -> None:
        self.leash = leash
        self.wake = wake
        self.server = server
        self.grace_s = grace_s
        self.deadline_s: float | None = None

    def run(self) -> int:
        """Until nothing of the server is left; returns its exit code as a shell would."""
        self._tell({"pid": self.server})
        while (status := self._reap_server()) is None:
            self._wait()
        self._end_family()
        code = os.waitstatus_to_exitcode(status)
        self._tell({"exit": code})
        return code if code >= 0 else 128 - code

    def _wait(self) -> None:
        """Until something happens: a signal, the leash let go, or the grace used up."""
        watched = [self.wake] if self.deadline_s is not None else [self.wake, self.leash]
        timeout = None if self.deadline_s is None else max(0.0, self.deadline_s - time.monotonic())
        ready, _, _ = select.select(watched, [], [], timeout)
        signals = self.wake.recv(256) if self.wake in ready else b""
        if self.leash in ready or signal.SIGTERM in signals or signal.SIGINT in signals:
            self._ask_to_end()
        elif self.deadline_s is not None and time.monotonic() >= self.deadline_s:
            _signal_group(self.server, signal.SIGKILL)
            self.deadline_s = time.monotonic() + self.grace_s

    def _ask_to_end(self) -> None:
        if self.deadline_s is None:
            self.deadline_s = time.monotonic() + self.grace_s
            os.kill(self.server, signal.SIGTERM)

    def _reap_server(self) -> int | None:
        """The server's wait status once it has ended; other orphans are reaped on the way."""
        while True:
            pid, status = _reap()
            if pid == self.server:
                return status
            if pid == 0:
                return None

    def _end_family(self) -> None:
        deadline_s = time.monotonic() + _REAP_LIMIT_S
        while _signal_group(self.server, signal.SIGKILL) and time.monotonic() < deadline_s:
            if _reap()[0] == 0:
                select.select([self.wake], [], [], 0.05)

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self.leash.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return  # The launcher is gone; there is nobody to tell.


def _start(spec: dict[str, Any]) -> int:
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_server(spec, guard)
    # Both sides do it, so that the group exists before either goes on.
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    return pid


def _become_server(spec: dict[str, Any], guard: int) -> NoReturn:
    argv: list[str] = spec["argv"]
    os.setpgid(0, 0)
    _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(1)  # The guard died before the kernel could be asked to tell us.
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.execvpe(argv[0], argv, {**os.environ, **spec["env"]})
    except OSError as error:
        print(f"{argv[0]}: cannot be started: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


def _wake_on_signals() -> socket.socket:
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reader


def _reap() -> tuple[int, int]:
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _signal_group(group: int, number: int) -> bool:
    """Whether the group had anybody left to signal."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _prctl(option: int, value: int) -> None:
    # Linux only; elsewhere the leash alone has to do.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    sys.exit(main())

"""One server process of a cluster, held through its guard (``deploy.child``).

Knows how to start, follow and end it; not what it serves or when it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from deploy import child
from deploy.plan import ProcessPlan

_KILLED = -signal.SIGKILL


class ManagedProcess:
    """A started server. ``ended`` is done, with the exit code, once nothing of it is left."""

    def __init__(self, plan: ProcessPlan, guard: subprocess.Popen[bytes], leash: socket.socket) -> None:
        self.plan = plan
        self.pid: int | None = None
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._guard = guard
        self._leash = leash
        self._follower = asyncio.create_task(self._follow(), name=f"follow {plan.name}")

    @classmethod
    def start(cls, plan: ProcessPlan, grace_s: float) -> ManagedProcess:
        """Start the guard, and through it the server; returns at once."""
        ours, theirs = socket.socketpair()
        with plan.log.open("ab") as log, theirs:
            guard = subprocess.Popen(
                # -S: the guard needs no site packages, and starts in a fraction of the time.
                [sys.executable, "-S", str(Path(child.__file__))],
                stdin=theirs.fileno(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        request = {"argv": plan.argv, "env": dict(plan.env), "grace_s": grace_s}
        ours.sendall(json.dumps(request).encode() + b"\n")
        return cls(plan, guard, ours)

    def ask_to_end(self) -> None:
        """Let go of the leash: the guard ends the server and its family within the grace."""
        self._shut(socket.SHUT_WR)

    def strike(self) -> None:
        """End the server by force; its guard sees to the rest of its family, and tells of the end."""
        if self.pid is not None and not self.ended.done():
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, signal.SIGKILL)

    async def kill(self) -> None:
        """End guard and server by force."""
        self._guard.kill()
        await self._follower

    async def _follow(self) -> None:
        code: int | None = None
        reader, writer = await asyncio.open_unix_connection(sock=self._leash)
        async for line in _lines(reader):
            self.pid = line.get("pid", self.pid)
            code = line.get("exit", code)
        writer.close()
        await asyncio.to_thread(self._guard.wait)
        if code is None:
            code = self._guard_was_killed()
        self.ended.set_result(code)

    def _guard_was_killed(self) -> int:
        """The guard could not clean up; its server died with it, the server's family did not."""
        if self.pid is not None:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return _KILLED
        return _KILLED

    def _shut(self, how: int) -> None:
        try:
            self._leash.shutdown(how)
        except OSError:
            return  # The guard has already closed its end.


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, int]]:
    while True:
        try:
            line = await reader.readline()
        except ConnectionError:
            return
        if not line:
            return
        yield json.loads(line)

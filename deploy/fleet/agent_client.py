"""A conversation with a host's agent over a shell's pipes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import msgspec

from deploy.fleet.agent_messages import Answer, Refused, Request
from deploy.fleet.shell import HostError, Shell

_LINE_LIMIT = 64 * 2**20
_END_S = 5.0
_ANSWERS: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


class AgentClient:
    """Asks one host, one question at a time; begins the conversation with the first."""

    def __init__(self, shell: Shell, script: str) -> None:
        """``script``: what runs the agent there."""
        self.host = shell.host
        self._shell = shell
        self._script = script
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._words: deque[str] = deque(maxlen=20)
        self._listener: asyncio.Task[None] | None = None

    async def ask(self, request: Request, timeout_s: float = 60.0) -> Answer:
        """Raises HostError when there is no answer in time, or the answer is a refusal."""
        async with self._turn:
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await self._exchange(request)
            except TimeoutError as error:
                await self._hang_up()
                raise HostError(f"{self.host}: no answer within {timeout_s:g} s") from error
            except asyncio.CancelledError:
                await self._hang_up()  # The answer under way must not be taken for the next one's.
                raise
            except (OSError, ValueError) as error:
                await self._hang_up()
                raise HostError(f"{self.host}: {error}") from error
        if isinstance(answer, Refused):
            raise HostError(f"{self.host}: {answer.reason}")
        return answer

    async def close(self) -> None:
        """End the conversation; what the host runs goes on."""
        async with self._turn:
            await self._hang_up()

    async def _exchange(self, request: Request) -> Answer:
        process = self._process or await self._call()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ConnectionError):  # What it said before it went is worth more.
            process.stdin.write(msgspec.json.encode(request) + b"\n")
            await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise HostError(await self._why())
        try:
            return _ANSWERS.decode(line)
        except msgspec.DecodeError as error:
            await self._hang_up()
            said = line.decode(errors="replace").strip()[:200]
            raise HostError(
                f"{self.host}: its agent said {said!r}, which is no answer; the shell's start-up "
                "files may print something there"
            ) from error

    async def _call(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            *self._shell.command(self._script),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
            start_new_session=True,  # A Ctrl-C ends the verb, in order, and not the conversation under it.
        )
        self._words.clear()
        self._listener = asyncio.create_task(self._listen(self._process))
        return self._process

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            self._words.append(line.decode(errors="replace"))

    async def _why(self) -> str:
        assert self._process is not None
        code = await self._process.wait()
        if self._listener is not None:
            await self._listener
        reason = self._shell.explain(code, "".join(self._words))
        self._process = None
        return f"{self.host}: {reason}"

    async def _hang_up(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._listener is not None:
            await self._listener

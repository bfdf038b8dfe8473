"""What is done to the parts: a table of faults, each struck on entering and mended on leaving its context."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import psutil

from block.errors import ConfigError
from exp.failure_stage import Part, Stage
from exp.fault_proxy import FaultProxy, Harm
from exp.mock_stage import MockStage

VICTIM = 0
"""Of several alike, the one that is struck."""
CLIENTS_AT_ONCE = 8

Strike = Callable[[Stage], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail."""

    part: str
    """engine, predictor, feed or scheduler."""
    strike: Strike

    @property
    def harms_an_instance(self) -> bool:
        """Whether it is one instance that fails; all others are then others."""
        return self.part == "engine"


@asynccontextmanager
async def _killed(part: Callable[[Stage], Part], stage: Stage) -> AsyncIterator[None]:
    part(stage).end()
    yield
    part(stage).start()


@asynccontextmanager
async def _stopped(part: Callable[[Stage], Part], stage: Stage) -> AsyncIterator[None]:
    part(stage).signal(signal.SIGSTOP)
    yield
    part(stage).signal(signal.SIGCONT)


@asynccontextmanager
async def _harmed(proxy: Callable[[Stage], FaultProxy], harm: Harm, stage: MockStage) -> AsyncIterator[None]:
    proxy(stage).harm = harm
    yield
    proxy(stage).harm = Harm.NONE


@asynccontextmanager
async def _garbled(stage: Stage) -> AsyncIterator[None]:
    await _mocked(stage).tell_engine(VICTIM, "garble")
    yield
    await _mocked(stage).tell_engine(VICTIM, "heal")


@asynccontextmanager
async def _worker_killed(stage: Stage) -> AsyncIterator[None]:
    """Its supervisor starts another."""
    _worker(stage).kill()
    yield


@asynccontextmanager
async def _worker_stopped(stage: Stage) -> AsyncIterator[None]:
    worker = _worker(stage)
    worker.suspend()
    yield
    worker.resume()


@asynccontextmanager
async def _drained(stage: Stage) -> AsyncIterator[None]:
    """All workers; nobody listens until it is started again, at once."""
    stage.parts.scheduler.signal(signal.SIGTERM)
    await asyncio.to_thread(stage.parts.scheduler.wait)
    stage.parts.scheduler.start()
    yield


@asynccontextmanager
async def _beset(
    client: Callable[[int, random.Random], Awaitable[None]], stage: Stage
) -> AsyncIterator[None]:
    """Clients that do no good, beside those that count."""

    async def go_on(number: int) -> None:
        dice = random.Random(number)
        while True:
            with contextlib.suppress(OSError):
                await client(stage.port, dice)

    tasks = [asyncio.create_task(go_on(number)) for number in range(CLIENTS_AT_ONCE)]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _leave_early(port: int, dice: random.Random) -> None:
    """A good request, and a reset before its answer is over."""
    body = b'{"model":"mock","stream":true,"messages":[{"role":"user","content":"x"}]}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head + body)
    await asyncio.sleep(dice.random() * 0.3)
    writer.transport.abort()


async def _talk_garbage(port: int, dice: random.Random) -> None:
    """Random bytes, as they are or after a good beginning."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    beginning = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(dice.choice((b"", beginning)) + dice.randbytes(200))
    await asyncio.sleep(dice.random() * 0.1)
    writer.transport.abort()


def _worker(stage: Stage) -> psutil.Process:
    return stage.parts.scheduler.children[VICTIM]


def _engine(stage: Stage) -> Part:
    return stage.parts.engines[VICTIM]


def _predictor(stage: Stage) -> Part:
    return stage.parts.predictors[VICTIM]


def _engine_proxy(stage: Stage) -> FaultProxy:
    return _mocked(stage).engine_proxies[VICTIM]


def _predictor_proxy(stage: Stage) -> FaultProxy:
    return _mocked(stage).predictor_proxies[VICTIM]


def _mocked(stage: Stage) -> MockStage:
    if not isinstance(stage, MockStage):
        raise ConfigError(f"this fault needs mock engines; on others: {', '.join(ON_VLLM)}")
    return stage


def _harms(part: str, proxy: Callable[[Stage], FaultProxy]) -> dict[str, Fault]:
    harms = {
        "delays each part 0.3 s": Harm.DELAY,
        "resets connections": Harm.RESET,
        "breaks off in mid-answer": Harm.TRUNCATE,
        "answers garbage": Harm.GARBAGE,
        "hangs, but looks healthy": Harm.SWALLOW,
    }
    return {f"{part} {name}": Fault(part, partial(_harmed, proxy, harm)) for name, harm in harms.items()}


ON_VLLM = ("engine kill -9", "engine SIGSTOP")
"""What is tried on real vLLM servers as well; it needs no proxies."""
FAULTS: Mapping[str, Fault] = {
    "engine kill -9": Fault("engine", partial(_killed, _engine)),
    "engine SIGSTOP": Fault("engine", partial(_stopped, _engine)),
    **_harms("engine", _engine_proxy),
    "engine feeds garbage": Fault("feed", _garbled),
    "predictor kill -9": Fault("predictor", partial(_killed, _predictor)),
    "predictor SIGSTOP": Fault("predictor", partial(_stopped, _predictor)),
    **_harms("predictor", _predictor_proxy),
    "scheduler worker kill -9": Fault("scheduler", _worker_killed),
    "scheduler worker SIGSTOP": Fault("scheduler", _worker_stopped),
    "scheduler SIGTERM": Fault("scheduler", _drained),
    "scheduler's clients leave": Fault("scheduler", partial(_beset, _leave_early)),
    "scheduler's clients talk garbage": Fault("scheduler", partial(_beset, _talk_garbage)),
}

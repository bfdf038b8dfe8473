"""Fleet of fakes that behave like vLLM and like predictors, and the real scheduler before them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from fake_instance import FakeInstance
from fake_predictor import FakePredictor
from openai_answers import WHOLE, chat_chunks
from scheduler_world import Scheduler, World, until


@pytest_asyncio.fixture
async def world() -> AsyncIterator[Callable[..., Awaitable[World]]]:
    """Factory: ``await world(instances=2, predictors=True, **settings)``."""
    made = World()

    async def make(instances: int = 2, predictors: bool = False, **settings: Any) -> World:
        for name in "abcdefgh"[:instances]:
            made.instances[name] = FakeInstance(name)
            await made.instances[name].start()
            if predictors:
                made.predictors[name] = FakePredictor(name)
                await made.predictors[name].start()
        made.scheduler = Scheduler(made.configure(settings))
        await made.scheduler.start()
        return made

    yield make
    await made.stop()


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture
def expected_stream() -> bytes:
    return b"".join(chat_chunks())


@pytest.fixture
def expected_whole() -> bytes:
    return WHOLE

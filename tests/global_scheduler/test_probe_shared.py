"""Predictors that share a port are asked by one message; each answer counts, or fails, by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from block.config import InstanceConfig
from block.http.message import Response
from block.messages import (
    CandidateRequest,
    PredictRequest,
    PredictResponse,
    PredictSharedRequest,
    PredictSharedResponse,
)
from block.types import EngineLoad, Prediction
from global_scheduler.fleet import Fleet
from global_scheduler.ledger import Ledger
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.probe import MOST_TOGETHER, Prober
from global_scheduler.question import Question

LOAD = EngineLoad(1, 0, 0, 100, 200, 0, 50)
PREDICTION = Prediction(0.1, 1.0, 0.01, 0.0, 0.0, 0, 0.001, "test@0", 1.0)


def answer_of(name: str) -> PredictResponse:
    return PredictResponse(name, PREDICTION, None, LOAD, 7)


class Post:
    """Stands for the courier; answers in the loop's next turn."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes, PredictRequest | PredictSharedRequest]] = []
        self.silent: set[str] = set()
        self.reply: Callable[[PredictSharedRequest], Response] = self.answers

    def post(self, place: Any, path: bytes, body: bytes, _: float, done: Callable[[Any], None]) -> None:
        origin, prefix = place
        if path == b"/v1/commit":
            return  # it is never acknowledged
        kind = PredictSharedRequest if path.endswith(b"/shared") else PredictRequest
        message = msgspec.json.decode(body, type=kind)
        self.sent.append((origin.port, prefix + path, message))
        if isinstance(message, PredictSharedRequest):
            response = self.reply(message)
        else:
            name = (prefix + path).split(b"/")[-3].decode()
            response = Response(200, [], msgspec.json.encode(answer_of(name)))
        asyncio.get_running_loop().call_soon(done, response)

    def answers(self, message: PredictSharedRequest) -> Response:
        names = [each.instance for each in message.questions if each.instance not in self.silent]
        return Response(
            200, [], msgspec.json.encode(PredictSharedResponse(tuple(answer_of(name) for name in names)))
        )


class Bench:
    def __init__(self, predictors: dict[str, str]) -> None:
        configs = [
            InstanceConfig(name=name, url="http://127.0.0.1:1", predictor_url=url)
            for name, url in predictors.items()
        ]
        self.fleet = Fleet(configs, retry_after_s=1.0)
        self.post = Post()
        courier: Any = self.post
        self.ledger = Ledger(courier)
        self.metrics = SchedulerMetrics(self.fleet, None)
        self.prober = Prober(courier, self.ledger, self.metrics, 0.5, None, 1)

    async def ask(self, **fields: Any) -> dict[str, PredictResponse]:
        question = Question(CandidateRequest("new", 10, 5, 20), 0, "times", **fields)
        return await self.prober.ask(self.fleet.instances, question)


def together(names: str, port: int = 2) -> dict[str, str]:
    return {name: f"http://127.0.0.1:{port}/of/{name}" for name in names}


async def test_one_message_for_each_port() -> None:
    bench = Bench(
        together("ab") | together("cd", 3) | together("e", 4) | {"f": "http://127.0.0.1:5/elsewhere/of/f/x/y"}
    )
    answers = await bench.ask()
    assert set(answers) == set("abcde")  # the fake takes f's for somebody else's
    asked = sorted((port, path) for port, path, _ in bench.post.sent)
    assert asked == [
        (2, b"/v1/predict/shared"),
        (3, b"/v1/predict/shared"),
        (4, b"/v1/predict/shared"),
        (5, b"/elsewhere/of/f/x/y/v1/predict"),
    ]


async def test_an_address_in_anothers_name_is_not_shared() -> None:
    bench = Bench({"a": "http://127.0.0.1:2/of/b"})
    await bench.ask()
    assert [path for _, path, _ in bench.post.sent] == [b"/of/b/v1/predict"]


async def test_each_is_told_its_own() -> None:
    bench = Bench(together("ab"))
    earlier = CandidateRequest("earlier", 7, 7, 7)
    bench.ledger.commit(bench.fleet.instances[1], earlier)
    await bench.ask(cached_tokens={"a": 4})
    ((_, _, message),) = bench.post.sent
    assert isinstance(message, PredictSharedRequest)
    a, b = message.questions
    assert (a.committed, a.cached_tokens) == ((), 4)
    assert (b.committed, b.cached_tokens) == ((earlier,), 0)
    assert message.to(a).candidate.cached_tokens == 4
    assert message.to(b) == PredictRequest(message.candidate, (earlier,), 1, "times")
    assert bench.ledger.untold(bench.fleet.instances[1]) == ()  # its answer says that it knows now


async def test_one_that_has_no_answer_leaves_the_others_theirs() -> None:
    bench = Bench(together("abc"))
    bench.post.silent = {"b"}
    earlier = CandidateRequest("earlier", 7, 7, 7)
    bench.ledger.commit(bench.fleet.instances[1], earlier)
    assert set(await bench.ask()) == {"a", "c"}
    assert bench.ledger.untold(bench.fleet.instances[1]) == (earlier,)


@pytest.mark.parametrize("response", [Response(500), Response(200, [], b"{"), None])
async def test_no_sense_for_one_is_none_for_all(response: Any) -> None:
    bench = Bench(together("ab"))
    bench.post.reply = lambda _: response
    assert await bench.ask() == {}


async def test_no_message_asks_too_many() -> None:
    names = [f"i{number}" for number in range(MOST_TOGETHER + 3)]
    bench = Bench({name: f"http://127.0.0.1:2/of/{name}" for name in names})
    assert set(await bench.ask()) == set(names)
    sizes = [len(message.questions) for _, _, message in bench.post.sent if hasattr(message, "questions")]
    assert sizes == [MOST_TOGETHER, 3]

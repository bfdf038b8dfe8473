"""What stands in an instance's books for a request, and what is struck out when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from block.config import InstanceConfig
from block.errors import ConnectError
from block.messages import CandidateRequest
from global_scheduler.engagement import Engagement
from global_scheduler.fleet import Fleet
from global_scheduler.question import Question
from global_scheduler.relay import Forward
from global_scheduler.traffic import Burden

FORWARD = Forward(b"/v1/completions", b"", b"{}", stream=True)


class Commitment:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def close(self) -> None:
        self.calls.append("close")

    def release(self) -> None:
        self.calls.append("release")


class Books:
    """A dispatcher's part in an engagement, and whoever engages."""

    def __init__(self) -> None:
        self.commitment = Commitment()
        self.opening: list[Any] = []
        self.heard: list[Any] = []
        self.ledger = SimpleNamespace(commit=lambda *_: self.commitment)
        self.cancelled = 0
        self.relay = SimpleNamespace(now_s=1.0, resting=lambda _: None, open=self.open)
        (self.instance,) = Fleet(
            [InstanceConfig(name="a", url="http://127.0.0.1:1")], retry_after_s=1.0
        ).instances
        self.engagement = Engagement(self, self.instance, Burden(prompt_tokens=3, output_tokens=4))

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> bool:
        return False

    def open(self, _: Any, opened: Any) -> Books:
        self.opening.append(opened)
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    def judge(self, instance: Any, answer: Any, began_s: float) -> None:
        self.heard.append(("judged", instance.name, began_s))

    def answered(self, engagement: Engagement, answer: Any) -> None:
        self.heard.append((engagement, answer.reason))


@pytest.fixture
async def books() -> Books:
    return Books()


async def test_a_request_stands_in_the_books_until_it_is_left(books: Books):
    assert (books.instance.outstanding, books.instance.traffic.outstanding_tokens) == (1, 7)
    books.engagement.leave(seen=False)
    assert (books.instance.outstanding, books.instance.traffic.outstanding_tokens) == (0, 0)


@pytest.mark.parametrize(("seen", "calls"), [(True, ["close"]), (False, ["release"])])
async def test_a_predictor_is_told_of_what_its_engine_has_not_seen(
    books: Books, seen: bool, calls: list[str]
):
    books.engagement.commit(Question(CandidateRequest("id", 3, 4, 4), seed=0))
    books.engagement.leave(seen=seen)
    assert books.commitment.calls == calls


async def test_an_instance_to_which_there_is_no_way_is_judged_like_one_that_fails(books: Books):
    books.engagement.begin(books, FORWARD, ends_s=9.0)
    (opened,) = books.opening
    opened(ConnectError("refused"))
    assert books.heard == [("judged", "a", 1.0), (books.engagement, "connect")]
    books.engagement.leave(seen=False)
    assert books.cancelled == 0


async def test_who_leaves_while_the_way_is_being_opened_ends_that(books: Books):
    books.engagement.begin(books, FORWARD, ends_s=9.0)
    books.engagement.leave(seen=False)
    assert books.cancelled == 1
    assert books.instance.outstanding == 0

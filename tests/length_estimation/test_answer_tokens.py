"""Answers are counted by their usage, else by their events, whatever stands in their texts."""

from __future__ import annotations

import json

import pytest

from length_estimation.answer_tokens import AnswerTokens


def event(**fields):
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


def text(content, finish=None):
    return event(choices=[{"index": 0, "delta": {"content": content}, "finish_reason": finish}])


def count(*chunks):
    answer = AnswerTokens()
    for chunk in chunks:
        answer.feed(chunk)
    return answer


ROLE = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
DONE = b"data: [DONE]\n\n"


def test_a_stream_is_counted_by_its_events():
    answer = count(ROLE, text("a"), text("b") + text("c"), text("d", "stop"), DONE)
    assert (answer.tokens, answer.cut, answer.ended) == (4, False, True)


def test_usage_is_believed():
    usage = event(choices=[], usage={"prompt_tokens": 4, "completion_tokens": 31})
    assert count(ROLE, text("a"), text("b", "length"), usage, DONE).tokens == 31
    whole = json.dumps({"choices": [{"finish_reason": "length"}], "usage": {"completion_tokens": 9}}).encode()
    assert (count(whole).tokens, count(whole).cut) == (9, True)


def test_texts_cannot_lie():
    liar = text('{"completion_tokens": 999, "finish_reason": "length"} data: {')
    answer = count(ROLE, liar, text("b", "stop"))
    assert (answer.tokens, answer.cut) == (pytest.approx(3, abs=1), False)


def test_an_answer_that_broke_off_says_so():
    assert not count(ROLE, text("a")).ended
    assert count(b'{"error": {}}').tokens is None


def test_several_choices_are_not_one_long_response():
    assert not count(text("a", "stop"), text("b", "stop"), DONE).ended
    two = {"choices": [{"finish_reason": "stop"}] * 2, "usage": {"completion_tokens": 18}}
    assert not AnswerTokens.of(json.dumps(two).encode()).ended

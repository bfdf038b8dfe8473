"""Streamed answers, cut into pieces at every place, and what can be wrong with them."""

from __future__ import annotations

import json
import re

import pytest

from exp.stream_reply import read_reply


def event(completion: int) -> bytes:
    usage = {"prompt_tokens": 4, "completion_tokens": completion}
    return b"data: " + json.dumps({"choices": [{"text": "x"}], "usage": usage}).encode() + b"\n\n"


def answer(*events: bytes, status: str = "200 OK") -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in events)
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + chunks + b"0\r\n\r\n"


WHOLE = answer(event(1), event(3), event(4), event(4), b"data: [DONE]\n\n")


def test_tokens_have_the_time_of_their_message_and_a_message_may_hold_several() -> None:
    first, second = WHOLE.index(b"\r\n\r\n") + 4, WHOLE.index(event(3))
    pieces = [(1.0, WHOLE[:first]), (2.0, WHOLE[first:second]), (3.0, WHOLE[second:])]
    reply = read_reply(pieces)
    assert (reply.token_s, reply.prompt_tokens, reply.error) == ((2.0, 3.0, 3.0, 3.0), 4, "")


def test_it_does_not_matter_where_the_network_cuts() -> None:
    for cut in range(1, len(WHOLE)):
        reply = read_reply([(1.0, WHOLE[:cut]), (2.0, WHOLE[cut:])])
        assert reply.error == ""
        assert len(reply.token_s) == 4
        assert list(reply.token_s) == sorted(reply.token_s)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "broke off"),
        (WHOLE[: WHOLE.index(b"data: [DONE]")], "broke off"),
        (answer(b'{"error": "busy"}', status="503 Service Unavailable"), "HTTP status 503: .*busy"),
        (answer(event(1), b'data: {"error": "engine died"}\n\n'), "engine died"),
        (answer(b"data: {oh\n\n"), "not what it should be"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
    ],
)
def test_what_is_wrong_is_told(data: bytes, error: str) -> None:
    reply = read_reply([(1.0, data)] if data else [])
    assert re.search(error, reply.error)


def said(text: str, usage: dict[str, int] | None = None) -> bytes:
    choices = [{"index": 0, "delta": {"content": text}}] if text or usage is None else []
    return b"data: " + json.dumps({"choices": choices, "usage": usage}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("last", "output_tokens"), [((), 2), ((said("", {"prompt_tokens": 9, "completion_tokens": 3}),), 3)]
)
def test_without_running_usage_messages_with_text_are_tokens(
    last: tuple[bytes, ...], output_tokens: int
) -> None:
    whole = answer(said(""), said("a"), said("b"), *last, b"data: [DONE]\n\n")
    reply = read_reply([(1.0, whole)])
    assert reply.error == ""
    assert (len(reply.token_s), len(reply.message_s), reply.output_tokens) == (2, 2, output_tokens)


def test_headers_are_kept_in_lower_case() -> None:
    assert read_reply([(1.0, WHOLE)]).headers["content-type"] == "text/event-stream"

"""Who is taken for a web page, by what a request says of itself."""

from __future__ import annotations

import pytest

from block.http.message import Headers, Request, RequestHead
from block.web_page import PageRule

RULE = PageRule("GPU1", "settings.access.keys")
JSON = (b"content-type", b"application/json")


def code(headers: Headers, method: bytes = b"POST", body: bytes = b"{}") -> str | int | None:
    refusal = RULE.refusal(Request(RequestHead(method, b"/v1/commit", headers), body))
    return None if refusal is None else refusal.code


@pytest.mark.parametrize(
    "host", [b"gpu1:8200", b"Gpu1", b"127.0.0.9:1", b"[::1]:8200", b"a.localhost", b"LOCALHOST"]
)
def test_the_services_own_name_and_this_machines_are_no_strangers(host: bytes) -> None:
    assert code([(b"host", host), JSON]) is None


@pytest.mark.parametrize(
    "host", [b"gpu2:8200", b"gpu1.evil.example", b"127.0.0.1.evil.example", b"10.0.0.1", b""]
)
def test_any_other_name_is(host: bytes) -> None:
    assert code([(b"host", host), JSON]) == "strange_host"
    assert code([(b"host", host)], b"GET", b"") == "strange_host"


@pytest.mark.parametrize(
    ("origin", "found"), [(b"http://gpu1:8200", None), (b"http://gpu1:3000", "cross_origin")]
)
def test_a_page_of_another_port_is_another_sites(origin: bytes, found: str | None) -> None:
    assert code([(b"host", b"gpu1:8200"), (b"origin", origin), JSON]) == found


def test_messages_that_begin_alike_are_judged_by_their_own_bodies() -> None:
    head = RequestHead(b"POST", b"/v1/calibration/reset", [(b"host", b"gpu1")])
    assert RULE.refusal(Request(head)) is None
    refusal = RULE.refusal(Request(head, b"{}"))
    assert refusal is not None
    assert (refusal.status, refusal.code) == (415, "not_json")
    assert RULE.refusal(Request(head)) is None


def test_a_refusal_names_the_way_out() -> None:
    refusal = RULE.refusal(Request(RequestHead(b"GET", b"/v1/state", [(b"host", b"evil.example")])))
    assert refusal is not None
    assert "settings.access.keys" in refusal.message

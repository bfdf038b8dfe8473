"""Whether a web page may be behind a request that needs no key: some other site's, open in a browser of this
machine. Pure.

A page can send requests to any address that its browser reaches, and one that has its own name lead to this
machine can read the answers, too. It cannot choose what the browser says of where a request comes from
(``Origin``, ``Sec-Fetch-Site``, ``Host``), nor send JSON to strangers without asking first, which is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from functools import cache, partial

import msgspec

from block.errors import RequestError
from block.http.message import Request, RequestHead, first_value

_READING = frozenset({b"GET", b"HEAD"})
_OWN_SITES = frozenset({b"same-origin", b"none"})
"""``none``: somebody has typed the address."""


class _Verdict(msgspec.Struct, frozen=True):
    status: int
    code: str
    message: str


_NOT_JSON = _Verdict(415, "not_json", "a body must be JSON and say so: send Content-Type: application/json")


class PageRule:
    """What a service asks of requests that need no key."""

    def __init__(self, own_name: str, keys: str) -> None:
        """``own_name``: a name of the service besides those that mean this machine everywhere. ``keys``: the
        setting that would let anybody in who has one.
        """
        remedy = f"only programs of this machine may, or whoever brings a key of {keys}"
        self._judge = _judge_for(own_name.lower(), remedy)

    def refusal(self, request: Request) -> RequestError | None:
        """Why it is refused; None if no page of another site can have sent it."""
        wrong = request.head.once(self._judge)
        if wrong is None and request.body and not request.head.once(_may_have_a_body):
            wrong = _NOT_JSON
        return None if wrong is None else RequestError(wrong.message, status=wrong.status, code=wrong.code)


@cache
def _judge_for(own_name: str, remedy: str) -> Callable[[RequestHead], _Verdict | None]:
    """One for all services that ask the same: a head keeps its verdict, and none of the services."""
    return partial(_judge, own_name, remedy)


def _judge(own_name: str, remedy: str, head: RequestHead) -> _Verdict | None:
    """Whatever the body is."""
    if (stranger := next(_strange_hosts(head, own_name), None)) is not None:
        return _Verdict(403, "strange_host", f"the request is for host {stranger!r}; {remedy}")
    if head.method not in _READING and (origin := _foreign_origin(head)):
        return _Verdict(403, "cross_origin", f"a web page of {origin!r} has sent this; {remedy}")
    return None


def _may_have_a_body(head: RequestHead) -> bool:
    content_type = first_value(head.headers, b"content-type") or b""
    is_json = content_type.partition(b";")[0].strip().lower() == b"application/json"
    return is_json or head.method in _READING


def _strange_hosts(head: RequestHead, own_name: str) -> Iterator[str]:
    """Names that are neither this machine's nor the service's own: somebody else may have made them so."""
    for name, value in head.headers:
        if name == b"host":
            host = _without_port(value.decode("latin-1").lower())
            if host != own_name and not _means_this_machine(host):
                yield host[:200]


def _without_port(authority: str) -> str:
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def _means_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _foreign_origin(head: RequestHead) -> str:
    """Of the page that sent it, as the browser says; empty if there is none, or it is the service's own."""
    host = (first_value(head.headers, b"host") or b"").lower()
    for name, value in head.headers:
        if name == b"origin" and value.lower().partition(b"://")[2] != host:
            return value[:200].decode("latin-1")
        if name == b"sec-fetch-site" and value.lower() not in _OWN_SITES:
            return f"another site ({value[:50].decode('latin-1')})"
    return ""

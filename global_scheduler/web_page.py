"""Whether a web page may be behind a request that needs no key: some other site's, open in a browser of this
machine. Pure.

A page can send requests to any address that its browser reaches, and one that has its own name lead to this
machine can read the answers, too. It cannot choose what the browser says of where a request comes from
(``Origin``, ``Sec-Fetch-Site``, ``Host``), nor send JSON to strangers without asking first, which is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from block.errors import RequestError
from block.http.message import Request, first_value

_READING = frozenset({b"GET", b"HEAD"})
_OWN_SITES = frozenset({b"same-origin", b"none"})
"""``none``: somebody has typed the address."""
_REMEDY = "only programs of this machine may, or whoever brings a key of settings.access.admin_keys"


def page_refusal(request: Request, own_name: str) -> RequestError | None:
    """Why it is refused; None if no page of another site can have sent it.

    ``own_name``: a name of this service besides those that mean this machine everywhere.
    """
    if stranger := next(_strange_hosts(request, own_name), None):
        return _refused(f"the request is for host {stranger!r}; {_REMEDY}", "strange_host")
    if request.method in _READING:
        return None
    if origin := _foreign_origin(request):
        return _refused(f"a web page of {origin!r} has sent this; {_REMEDY}", "cross_origin")
    content_type = first_value(request.headers, b"content-type") or b""
    if request.body and content_type.partition(b";")[0].strip().lower() != b"application/json":
        message = "a body must be JSON and say so: send Content-Type: application/json"
        return RequestError(message, status=415, code="not_json")
    return None


def _strange_hosts(request: Request, own_name: str) -> Iterator[str]:
    """Names that are neither this machine's nor the service's own: somebody else may have made them so."""
    for name, value in request.headers:
        if name == b"host":
            host = _without_port(value.decode("latin-1").lower())
            if host != own_name.lower() and not _means_this_machine(host):
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


def _foreign_origin(request: Request) -> str:
    """Of the page that sent it, as the browser says; empty if there is none, or it is the service's own."""
    host = (first_value(request.headers, b"host") or b"").lower()
    for name, value in request.headers:
        if name == b"origin" and value.lower().partition(b"://")[2] != host:
            return value[:200].decode("latin-1")
        if name == b"sec-fetch-site" and value.lower() not in _OWN_SITES:
            return f"another site ({value[:50].decode('latin-1')})"
    return ""


def _refused(message: str, code: str) -> RequestError:
    return RequestError(message, status=403, code=code)

"""Who may come in: which paths need which kind of key, and what to say to those who have none."""

from __future__ import annotations

from block.access import Keyring, brought_key
from block.errors import RequestError
from block.file_watch import FileWatch
from block.http.message import Request
from block.operation import SchedulerAccess
from block.web_page import PageRule

_ADMIN = b"/admin"


class Door:
    """The rules of one scheduler."""

    def __init__(self, access: SchedulerAccess, *, exposed: bool, host: str = "localhost") -> None:
        """``exposed``: others than this machine can reach it at ``host``.

        Raises ConfigError if keys cannot be read.
        """
        place = "settings.access"
        self._keys = None if access.keys is None else Keyring(access.keys, f"{place}.keys")
        self._admin = None if access.admin_keys is None else Keyring(access.admin_keys, f"{place}.admin_keys")
        self._open = {b"/health", b"/metrics"} if access.open_metrics else {b"/health"}
        self._private = not exposed and self._keys is None
        self._pages = PageRule(host, f"{place}.admin_keys")
        self.guarded = not (self._private and self._admin is None)
        """Whether ``refusal`` has to be asked at all."""

    def refusal(self, request: Request) -> RequestError | None:
        """Why a request may not come in; None if it may."""
        path = request.path
        if path in self._open:
            return None
        if path == _ADMIN or path.startswith(_ADMIN + b"/"):
            return self._admin_refusal(request)
        if self._keys is None:
            return None
        if path == b"/metrics" and self._admin is not None and _refusal_by(self._admin, request) is None:
            return None
        return _refusal_by(self._keys, request)

    def page_refusal(self, request: Request) -> RequestError | None:
        """Why one that may administer because it comes from this machine may not, after all: a web page of
        another site may have sent it."""
        if self._private and self._admin is None:
            return self._pages.refusal(request)
        return None

    def renew(self) -> None:
        """Read the keys again."""
        for ring in (self._keys, self._admin):
            if ring is not None:
                ring.renew()

    def watch(self) -> FileWatch:
        """Reads the keys again when their files change, until it is stopped."""
        rings = [ring for ring in (self._keys, self._admin) if ring is not None]
        return FileWatch([file for ring in rings for file in ring.files], self.renew)

    def _admin_refusal(self, request: Request) -> RequestError | None:
        if self._admin is not None:
            return _refusal_by(self._admin, request)
        if self._private:
            return None
        return RequestError(
            "administration is closed: settings.access.admin_keys names no keys",
            status=403,
            code="admin_closed",
        )


def _refusal_by(ring: Keyring, request: Request) -> RequestError | None:
    """In the words of OpenAI's error codes; the key itself is not repeated."""
    key = brought_key(request.headers)
    if key is None:
        return RequestError("no API key was given: send Authorization: Bearer KEY", status=401)
    if ring.admits(key):
        return None
    return RequestError("the API key is not valid here", status=401, code="invalid_api_key")

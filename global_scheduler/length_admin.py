"""What the admin API says of response lengths, and how it forgets what was learned of them."""

from __future__ import annotations

import msgspec

from block.errors import RequestError
from block.http.exchange import Exchange
from length_estimation.length_service import LengthService, LengthTally

PATH = b"/admin/lengths"
_RESET = PATH + b"/reset"
_JSON = [(b"content-type", b"application/json")]


class LengthView(msgspec.Struct, frozen=True):
    """Estimates of one process."""

    estimator: str
    """Its name in the settings."""
    corrections: dict[str, int]
    """Served model -> completed requests that its recalibration has learned from."""
    tally: LengthTally


class _Reset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str | None = None
    """Served model that is forgotten; None forgets all."""


_RESETS = msgspec.json.Decoder(_Reset)


class LengthAdmin:
    """Answers ``GET /admin/lengths`` and ``POST /admin/lengths/reset``."""

    def __init__(self, estimator: str, lengths: LengthService, *, alone: bool) -> None:
        """``alone``: whether no other worker shares this one's port."""
        self._estimator = estimator
        self._lengths = lengths
        self._alone = alone

    def answer(self, exchange: Exchange) -> None:
        """Raises RequestError."""
        asked = exchange.request.path, exchange.request.method
        if asked == (_RESET, b"POST"):
            self._reset(exchange.request.body)
        elif asked != (PATH, b"GET"):
            raise RequestError("known: GET /admin/lengths, POST /admin/lengths/reset", status=405)
        view = LengthView(self._estimator, self._lengths.corrections, self._lengths.tally)
        exchange.respond(200, _JSON, msgspec.json.encode(view))

    def _reset(self, body: bytes) -> None:
        if not self._alone:
            raise RequestError(
                "several workers share this port, each has learned for itself, and a reset would reach only "
                "one of them; restart the scheduler",
                status=409,
                code="several_workers",
            )
        try:
            order = _RESETS.decode(body or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RequestError(str(error)) from error
        self._lengths.reset(order.model)

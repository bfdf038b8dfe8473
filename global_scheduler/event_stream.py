"""Server-sent events as bytes: whole events in, whole events out, nothing rewritten."""

from __future__ import annotations

import msgspec

from global_scheduler.replies import ErrorBody

MAX_EVENT_BYTES = 2**20
"""A longer unfinished event is passed on as it is: then this is no event stream we know."""
_ERRORS = msgspec.json.Decoder(ErrorBody)


class EventCutter:
    """Cuts a byte stream after its last complete event.

    If an instance dies in the middle of an event, that event has not been passed on, and an error
    event can follow cleanly.
    """

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, chunk: bytes) -> bytes:
        """The complete events so far; what is left waits for its end."""
        if not self._tail and chunk.endswith(b"\n\n"):
            return chunk
        data = self._tail + chunk
        end = _end_of_events(data)
        if end == 0 and len(data) > MAX_EVENT_BYTES:
            end = len(data)
        self._tail = data[end:]
        return data[:end]

    def rest(self) -> bytes:
        """What has not been passed on; for a stream that ended in order."""
        rest, self._tail = self._tail, b""
        return rest


def engine_failure(events: bytes) -> tuple[int, bytes] | None:
    """``(code, error body)`` if the first event says that the engine failed (code 500 or more)."""
    if not events.startswith(b'data: {"error"'):
        return None
    body = events.partition(b"\n")[0].removeprefix(b"data: ")
    try:
        code = _ERRORS.decode(body).error.code
    except (ValueError, RecursionError):
        return None
    return (code, body) if isinstance(code, int) and 500 <= code <= 599 else None


def _end_of_events(data: bytes) -> int:
    unix, internet = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(unix + 2 if unix >= 0 else 0, internet + 4 if internet >= 0 else 0)

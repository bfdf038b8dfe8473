"""How services log: lines to read, or one JSON object a line for machines."""

from __future__ import annotations

import logging
from typing import Any, Literal

import msgspec

LogFormat = Literal["text", "json"]

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_log(level: str, form: LogFormat) -> None:
    """Log to the standard error, once per process."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level, handlers=[handler])


class JsonFormatter(logging.Formatter):
    """``{"time_s", "level", "logger", "message"}``, with ``exception`` where there is one.

    A record with ``objects`` (``extra={"objects": (name, [JSON bytes, ...])}``) becomes a line for each,
    with the object under its name in place of the message.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, or several."""
        said: dict[str, Any] = {
            "time_s": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        name, objects = getattr(record, "objects", ("", ()))
        if objects:
            return "\n".join(_line(said | {name: msgspec.Raw(each)}) for each in objects)
        said["message"] = record.getMessage()
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return _line(said)


def _line(said: dict[str, Any]) -> str:
    return msgspec.json.encode(said).decode()

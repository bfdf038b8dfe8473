"""What every part of the configuration tree is made of: its base, and its bounded values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError

# Strict, so that `true`, `yes` and quoted text are not taken for numbers.
Whole = Annotated[int, Strict()]
Flag = Annotated[bool, Strict()]
Port = Annotated[Whole, Field(ge=1, le=65535)]
Seconds = Annotated[float, Strict(), Field(gt=0, le=86_400)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Option = Flag | Whole | Annotated[float, Strict()] | str | None


def _with_readable_port(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        sane = bool(host) and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:  # a UnicodeError is one
        sane = False
    if not sane:
        raise PydanticCustomError("url", "must be http(s)://HOST:PORT, with a port from 1 to 65535")
    return url


Url = Annotated[str, Field(pattern=r"^https?://.+"), AfterValidator(_with_readable_port)]


class Settings(BaseModel):
    """Base of every part of the tree: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def anchored(self, root: Path) -> Self:
        """The same, with relative paths taken from ``root``."""
        changed: dict[str, object] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Settings):
                changed[name] = value.anchored(root)
            elif isinstance(value, Path):
                changed[name] = root / value
        return self.model_copy(update=changed)

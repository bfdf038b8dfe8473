"""Public data sets: where they are, how they are known to be the right ones, and how they are fetched."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from block.config import load_config
from block.errors import ConfigError, DataError
from block.settings import Settings

SETS = Path(__file__).resolve().parent.parent / "config" / "data.yaml"
_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30.0

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
OnBytes = Callable[[int], None]


class PublicSet(Settings):
    """One file."""

    url: str = Field(pattern=r"^https?://.+", description="Pinned to a version.")
    file: Path = Field(description="Where it goes, in the data folder.")
    sha256: Hex
    bytes: int | None = Field(None, ge=1, description="Its size, where it is known.")
    licence: str
    about: str

    def is_at(self, folder: Path) -> bool:
        """Whether the file is there; its checksum is not looked at."""
        return (folder / self.file).is_file()

    def fetch(self, folder: Path, on_bytes: OnBytes) -> Path:
        """Download it whole or not at all; ``on_bytes`` is told how many came.

        Raises DataError that tells what to do without a network, or if it is another file than expected.
        """
        path = folder / self.file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{path.parent}: cannot be written ({error}); name another folder") from error
        partial = path.with_name(f"{path.name}.partial")
        try:
            digest = _download(self.url, partial, on_bytes)
        except (OSError, HTTPException, urllib.error.URLError) as error:
            partial.unlink(missing_ok=True)
            raise DataError(
                f"{self.url}: cannot be fetched ({error}); fetch it on a machine with a network and put it "
                f"at {path} (sha256 {self.sha256}), or use --workload generated, which needs no file"
            ) from error
        if digest != self.sha256:
            partial.unlink()
            raise DataError(
                f"{self.url}: sha256 is {digest}, not {self.sha256}; the file has changed or was damaged "
                "under way: fetch again, or use --workload generated"
            )
        partial.replace(path)
        return path


class PublicSets(Settings):
    """All that are known."""

    sets: dict[str, PublicSet]

    @classmethod
    def load(cls, path: Path = SETS) -> PublicSets:
        """Raises ConfigError if the file is none."""
        return load_config(path, cls)

    def chosen(self, names: list[str]) -> dict[str, PublicSet]:
        """Those of the names, or all; raises ConfigError for an unknown one."""
        for name in names:
            if name not in self.sets:
                raise ConfigError(f"data set {name!r}: unknown; known here: {', '.join(self.sets)}")
        return {name: self.sets[name] for name in names or self.sets}


def _download(url: str, path: Path, on_bytes: OnBytes) -> str:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"{url}: must be http or https")
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, path.open("wb") as file:
        while chunk := answer.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()

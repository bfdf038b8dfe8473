"""What is put on every host: this project's sources and the files that the cluster file names."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import deploy
from block.errors import ConfigError
from block.fleet_config import FleetConfig
from block.settings import Settings

PACKAGES = ("block", "deploy", "global_scheduler", "length_estimation", "predictor", "vidur_adapter")
_LARGEST_BYTES = 64 * 2**20
_PROJECT = Path(deploy.__file__).resolve().parents[1]


@dataclass(frozen=True)
class Bundle:
    """Files by their path below the folder that they are put in."""

    files: dict[str, Path]

    @cached_property
    def digest(self) -> str:
        """Of names and contents."""
        total = hashlib.sha256()
        for name, path in sorted(self.files.items()):
            content = hashlib.sha256(path.read_bytes()).digest()
            total.update(name.encode() + b"\0" + content)
        return total.hexdigest()[:12]

    def tar(self) -> bytes:
        """All of it, packed; the same bytes for the same files."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=3) as archive:
            for name, path in sorted(self.files.items()):
                entry = tarfile.TarInfo(name)
                content = path.read_bytes()
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content))
        return packed.getvalue()


def bundle_of(config: FleetConfig, root: Path) -> Bundle:
    """Sources, and what relative paths in ``config`` mean below ``root``.

    Absolute paths are taken for the hosts' own. Raises ConfigError for what is not there or too large.
    """
    files = {path.relative_to(_PROJECT).as_posix(): path for path in _sources()}
    for field, path in _named_paths(config):
        if not path.is_absolute():
            files |= _named(field, path, root)
    return Bundle(files)


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (_PROJECT / package).rglob("*.py")
    yield _PROJECT / "pyproject.toml"


def _named_paths(config: FleetConfig) -> Iterator[tuple[str, Path]]:
    if config.setup.environment is None:
        yield "setup.requirements", config.setup.requirements
    for name in ("engine", "predictor", "scheduler"):
        yield from _paths_in(getattr(config, name), name)


def _paths_in(settings: Settings, name: str) -> Iterator[tuple[str, Path]]:
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        if isinstance(value, Path):
            yield f"{name}.{field}", value
        elif isinstance(value, Settings):
            yield from _paths_in(value, f"{name}.{field}")


def _named(field: str, path: Path, root: Path) -> dict[str, Path]:
    here = root / path
    if ".." in path.parts or not here.exists():
        raise ConfigError(
            f"{field} = {path}: there is no {here}; a relative path is one of this project's files and is "
            "copied to every host, an absolute one is a host's own"
        )
    found = [here] if here.is_file() else [each for each in here.rglob("*") if each.is_file()]
    if (size := sum(each.stat().st_size for each in found)) > _LARGEST_BYTES:
        raise ConfigError(
            f"{field} = {path}: {size / 2**20:.0f} MiB are too much to copy to every host; put it there "
            "yourself and give its absolute path"
        )
    return {(path / each.relative_to(here)).as_posix(): each for each in found}

"""A file with the list of instances: read when it changes, rewritten whole, followed by many processes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from block.config import load_instances
from block.errors import ConfigError
from global_scheduler.instance_list import Configs, Edit

LOOK_S = 0.5
"""Between two looks whether the file has changed. They cost some microseconds, and unlike a kernel's
notices they work on every file system, and where a file is replaced behind a link."""

logger = logging.getLogger(__name__)


class InstanceFile:
    """One such file. What is wrong with it is kept as ``problem``, and the last good list goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        """Why the file as it is now is not followed; None if it is."""
        self._seen: tuple[int, ...] | None = None

    def read_if_changed(self) -> Configs | None:
        """The list, if the file has changed since the last look and is in order."""
        mark = self._mark()
        if mark == self._seen:
            return None
        self._seen = mark
        try:
            configs = load_instances(self.path)
        except ConfigError as error:
            self.problem = str(error)
            logger.error("the instances stay as they were: %s", error)
            return None
        self.problem = None
        return configs

    def change(self, edit: Edit, otherwise: Configs) -> Configs:
        """Edit the list in the file; ``otherwise``: what is edited if there is no file yet.

        Other processes that do the same wait. Raises ConfigError if the file cannot be read or written,
        and what ``edit`` raises.
        """
        with self._locked():
            configs = edit(load_instances(self.path) if self.path.exists() else otherwise)
            self._write(configs)
            self._seen = self._mark()
            self.problem = None
            return configs

    async def follow(self, tell: Callable[[Configs], None]) -> None:
        """Tell every new list, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            configs = await asyncio.to_thread(self.read_if_changed)
            if configs is not None:
                tell(configs)

    def _mark(self) -> tuple[int, ...]:
        """Differs after every change; empty if there is no file."""
        try:
            status = self.path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            with lock.open("w") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be changed ({error.strerror})") from error

    def _write(self, configs: Configs) -> None:
        """At one stroke: nobody ever reads half a list. Comments in the file are lost."""
        target = self.path.resolve()
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
        with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=".instances-", delete=False) as file:
            file.write(_text(configs, as_json=target.suffix == ".json"))
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)
        Path(file.name).replace(target)


def _text(configs: Configs, *, as_json: bool) -> str:
    entries = [config.model_dump(mode="json", exclude_defaults=True) for config in configs]
    return json.dumps(entries, indent=2) + "\n" if as_json else yaml.safe_dump(entries, sort_keys=False)

"""What this machine remembers of a fleet: its settings and what was asked for, in ``run/<name>/fleet.json``.

What really runs is never remembered, but looked at. Holds no secrets, only where they are read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from block.config import InstanceConfig, parse_config
from block.errors import DeployError
from block.fleet_config import FleetConfig
from deploy.fleet.group import Group, InstancePart
from deploy.fleet.group_folder import write_whole
from deploy.fleet.install import Layout
from deploy.fleet.placement import place

FILE = "fleet.json"


class FleetRecord(msgspec.Struct, frozen=True):
    """One fleet as it should be."""

    config: msgspec.Raw
    root: str
    """Where relative paths of the configuration begin, on this machine."""
    bundle: str
    requirements: str
    drained: tuple[str, ...] = ()
    """Instances that get no requests."""
    retired: tuple[str, ...] = ()
    """Instances that were taken away, of those that the settings count; the last to go is the first back."""

    @property
    def settings(self) -> FleetConfig:
        """The configuration."""
        return parse_config(msgspec.json.decode(self.config), FleetConfig, FILE)

    def scaled(self, instances: int) -> FleetRecord:
        """The same with another number of instances. Raises ConfigError when there is no room."""
        raw = msgspec.json.decode(self.config) | {"instances": instances}
        settings = parse_config(raw, FleetConfig, FILE, {"instances"})
        groups = {group.name for group in place(settings, self.bundle)}
        return msgspec.structs.replace(
            self,
            config=msgspec.Raw(settings.model_dump_json().encode()),
            drained=tuple(name for name in self.drained if name in groups),
            retired=(),
        )

    def grown(self, count: int) -> FleetRecord:
        """The same with so many more instances. Raises ConfigError when there is no room."""
        back = min(count, len(self.retired))
        left = self.retired[: len(self.retired) - back]
        if back == count:
            return msgspec.structs.replace(self, retired=left)
        grown = self.scaled(self.settings.instances + count - back)
        return msgspec.structs.replace(grown, retired=left)

    def without(self, name: str) -> FleetRecord:
        """The same without one instance."""
        return msgspec.structs.replace(self, retired=(*self.retired, name))

    @property
    def groups(self) -> tuple[Group, ...]:
        """Everything that should run."""
        placed = place(self.settings, self.bundle)
        return tuple(group for group in placed if group.name not in self.retired)

    @property
    def layout(self) -> Layout:
        """Where things lie on the hosts."""
        settings = self.settings
        assert settings.backend is not None
        return Layout(settings.backend.folder, settings.setup, self.bundle, self.requirements)


def record_of(config: FleetConfig, root: Path, layout: Layout) -> FleetRecord:
    """The record of a fleet that is to be as ``config`` says."""
    raw = msgspec.Raw(config.model_dump_json().encode())
    return FleetRecord(raw, str(root), layout.bundle, layout.requirements)


def instance_list(groups: Sequence[Group], drained: Collection[str]) -> tuple[InstanceConfig, ...]:
    """What schedulers are told of the instances among groups whose address is known."""
    return tuple(
        InstanceConfig(
            name=group.name,
            url=f"http://{group.address}:{group.part.engine_port}",
            predictor_url=group.predictor_url(group.address),
            draining=group.name in drained,
        )
        for group in groups
        if isinstance(group.part, InstancePart)
    )


class FleetFolder:
    """``run/<name>/`` of a fleet. Verbs that change something hold its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The fleet's name."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """Whether there is such a fleet."""
        return (self.path / FILE).exists()

    def read(self) -> FleetRecord | None:
        """None if there is no fleet."""
        try:
            return msgspec.json.decode((self.path / FILE).read_bytes(), type=FleetRecord)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DeployError(f"{self.path / FILE}: {error.strerror}; check its permissions") from error
        except msgspec.DecodeError as error:
            raise DeployError(f"{self.path / FILE}: damaged ({error}); remove the file") from error

    def write(self, record: FleetRecord) -> None:
        """Replace the record in one step."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / FILE, msgspec.json.format(msgspec.json.encode(record)))
        except OSError as error:
            raise DeployError(
                f"{self.path}: {error.strerror}; use another folder (--set run_dir=FOLDER)"
            ) from error

    def forget(self) -> None:
        """The fleet is no more; logs that were brought here stay."""
        (self.path / FILE).unlink(missing_ok=True)

    def changing(self) -> contextlib.AbstractContextManager[None]:
        """Only one at a time may change a fleet. Raises DeployError when another does."""
        return self._held("fleet.lock", "being changed by another command")

    def provisioning(self) -> contextlib.AbstractContextManager[None]:
        """Only one controller may change a fleet. Raises DeployError when another does."""
        return self._held(
            "provisioning.lock", "provisioned by another `block-deploy provision`; end that first"
        )

    @contextlib.contextmanager
    def _held(self, lock_file: str, complaint: str) -> Iterator[None]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DeployError(
                f"{self.path}: {error.strerror}; use another folder (--set run_dir=FOLDER)"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise DeployError(f"fleet {self.name} is {complaint}") from error
        try:
            yield
        finally:
            os.close(lock)

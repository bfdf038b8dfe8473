"""How instances that choose their own place tell schedulers of it: one small file each on a shared folder.

An instance writes its file when it is ready, touches it while it lives and removes it before it ends. A
scheduler's job makes the list that the scheduler follows of the files that are fresh, so that a node that is
gone without a word is off the list soon. What is drained stands in a file of the fleet.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from block.config import InstanceConfig
from deploy.fleet.group_folder import write_whole

BEAT_S = 5.0
STALE_AFTER_S = 30.0


class InService(msgspec.Struct, frozen=True):
    """What the fleet's owner wants of one instance."""

    name: str
    draining: bool = False


class Registry:
    """The files of one fleet. Instances and schedulers of a fleet see the same folder."""

    def __init__(self, folder: Path) -> None:
        self._members = folder / "members"
        self._service = folder / "service.json"
        self._clock = folder / "clock"

    def enter(self, instance: InstanceConfig) -> None:
        """This instance is ready."""
        self._members.mkdir(parents=True, exist_ok=True)
        content = instance.model_dump_json(exclude_defaults=True).encode()
        write_whole(self._members / f"{instance.name}.json", content)

    def beat(self, name: str) -> None:
        """It still is."""
        os.utime(self._members / f"{name}.json")

    def leave(self, name: str) -> None:
        """It is not any more; nothing if it never was."""
        (self._members / f"{name}.json").unlink(missing_ok=True)

    def silent_s(self, name: str) -> float | None:
        """How long nothing has been heard of an instance; None if it is not registered."""
        try:
            return self._now_s() - (self._members / f"{name}.json").stat().st_mtime
        except FileNotFoundError:
            return None

    def serve(self, instances: Sequence[InService]) -> None:
        """These and no others are to get requests."""
        write_whole(self._service, msgspec.json.encode(instances))

    def entries(self) -> list[dict[str, object]]:
        """The list for a scheduler, by name."""
        wanted = self._wanted()
        found: list[dict[str, object]] = []
        now_s = self._now_s()
        for path in sorted(self._members.glob("*.json")):
            try:
                fresh = now_s - path.stat().st_mtime <= STALE_AFTER_S
                entry = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
            except (FileNotFoundError, msgspec.DecodeError):
                continue  # It has just left.
            if fresh and (wanted is None or path.stem in wanted):
                draining = {"draining": True} if wanted and wanted[path.stem].draining else {}
                found.append(entry | draining)
        return found

    def _wanted(self) -> dict[str, InService] | None:
        try:
            listed = msgspec.json.decode(self._service.read_bytes(), type=list[InService])
        except FileNotFoundError:
            return None
        return {each.name: each for each in listed}

    def _now_s(self) -> float:
        """The file server's time: its clock and this node's may differ."""
        self._clock.touch()
        return self._clock.stat().st_mtime

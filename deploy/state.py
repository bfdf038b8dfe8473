"""What a launcher writes down about its cluster, for ``status``, ``logs`` and ``down``."""

from __future__ import annotations

from typing import Literal

import msgspec

ProcessPhase = Literal["starting", "ready", "ended"]


class ProcessState(msgspec.Struct, frozen=True):
    """One server process as its launcher last saw it."""

    name: str
    role: str
    phase: ProcessPhase
    port: int
    url: str
    log: str
    pid: int | None = None
    exit_code: int | None = None
    """Negative when a signal ended the process."""
    restarts: int = 0
    """How often it was started again because it had ended."""


class ClusterState(msgspec.Struct, frozen=True):
    """One cluster. ``launcher_start_s`` tells the launcher from a later process with its id."""

    name: str
    launcher_pid: int
    launcher_start_s: float
    ready: bool
    openai_base_url: str
    model: str
    processes: tuple[ProcessState, ...]

    @property
    def ended(self) -> tuple[ProcessState, ...]:
        """Processes that have died."""
        return tuple(process for process in self.processes if process.phase == "ended")

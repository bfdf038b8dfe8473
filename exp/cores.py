"""Which processor serves what while something is measured, so that the measured does not move about."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Cores:
    """None leaves it to the kernel."""

    engine: int | None
    front: int | None

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The last allowed processor for the engine and the first for the rest, if there are two."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[-1], allowed[0]) if len(allowed) > 1 else cls(None, None)

    def pin_server(self, pid: int) -> None:
        """A vLLM server: its API process in front, the engine core and its workers where engines go."""
        api = psutil.Process(pid)
        pin([api], self.front)
        pin(api.children(recursive=True), self.engine)


def pin(processes: Iterable[psutil.Process], core: int | None) -> None:
    """All threads there are; later ones inherit it."""
    if core is None:
        return
    for process in processes:
        for thread in process.threads():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, {core})


@contextmanager
def pinned_here(core: int | None) -> Iterator[None]:
    """This process on one core for a while."""
    before = os.sched_getaffinity(0)
    pin([psutil.Process()], core)
    try:
        yield
    finally:
        for thread in psutil.Process().threads():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, before)

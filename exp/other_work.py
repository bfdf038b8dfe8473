"""How much of this machine other work takes: a measurement that shares its cores should say so."""

from __future__ import annotations

import time

import psutil


class OtherWork:
    """Counts from its making on."""

    def __init__(self) -> None:
        self._begun_s = time.monotonic()
        self._machine_s = _machine_cpu_s()
        self._ours_s = _own_cpu_s()

    @property
    def cores(self) -> float:
        """Busy cores on average that are neither this process nor anything it has started."""
        wall_s = time.monotonic() - self._begun_s
        others_s = (_machine_cpu_s() - self._machine_s) - (_own_cpu_s() - self._ours_s)
        return max(0.0, others_s / wall_s) if wall_s > 0 else 0.0


def _machine_cpu_s() -> float:
    """All but idle time; time that a hypervisor gave to others counts."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _own_cpu_s() -> float:
    """Of this process and everything it has started that still runs."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(each.user + each.system for each in times)

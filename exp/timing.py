"""How long a call takes, by CPU time of this thread and by the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Timing:
    """Percentiles over many calls, in milliseconds."""

    p50_ms: float
    p99_ms: float
    wall_p50_ms: float
    wall_p99_ms: float

    @classmethod
    def of(cls, call: Callable[[], object], count: int, warm: int = 5) -> Timing:
        """Time ``count`` calls after ``warm`` untimed ones."""
        for _ in range(warm):
            call()
        cpu_ns, wall_ns = np.empty(count), np.empty(count)
        for index in range(count):
            wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
            call()
            cpu_ns[index] = time.thread_time_ns() - cpu
            wall_ns[index] = time.perf_counter_ns() - wall
        p50, p99 = np.percentile(cpu_ns, [50, 99]) / 1e6
        wall_p50, wall_p99 = np.percentile(wall_ns, [50, 99]) / 1e6
        return cls(float(p50), float(p99), float(wall_p50), float(wall_p99))

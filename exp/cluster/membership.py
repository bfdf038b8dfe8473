"""Which instances of a simulated cluster are there, may be sent to, and how long each has been paid for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from exp.cluster.spec import SimulatedInstance


class Membership:
    """All instances, by index. Times come in by call."""

    def __init__(self, instances: Sequence[SimulatedInstance]) -> None:
        count = len(instances)
        self.eligible: list[int] = []
        """Schedulers send to these, in order."""
        self._alive = [False] * count
        self._busy = [0] * count
        self._draining: set[int] = set()
        self._reserve = [index for index, one in enumerate(instances) if one.joins_s == math.inf]
        self._since_s = [math.inf] * count
        self._served_s = [0.0] * count
        self._called_s: dict[int, float] = {}
        """When those that start were called for."""

    @property
    def present(self) -> list[bool]:
        """Which are there, be it that they only finish what they have."""
        return list(self._alive)

    def alive(self, instance: int) -> bool:
        """Whether it takes what is sent to it."""
        return self._alive[instance]

    def join(self, instance: int, now_s: float) -> None:
        """It is there, and known to all schedulers."""
        if not self._alive[instance]:
            self._alive[instance] = True
            self._since_s[instance] = self._called_s.pop(instance, now_s)
        self._draining.discard(instance)
        if instance not in self.eligible:
            self.eligible = sorted([*self.eligible, instance])

    def shun(self, instance: int) -> None:
        """Schedulers send nothing there any more."""
        if not self._alive[instance] or instance in self._draining:
            self.eligible = [index for index in self.eligible if index != instance]

    def drain(self, instance: int, now_s: float) -> None:
        """Nothing new; it leaves when it has nothing left."""
        if not self._alive[instance]:
            return
        self._draining.add(instance)
        self.shun(instance)
        self._leave_if_idle(instance, now_s)

    def fail(self, instance: int, now_s: float) -> None:
        """It is gone, which nobody knows yet."""
        self._alive[instance] = False
        self._draining.discard(instance)
        self._served_s[instance] += now_s - self._since_s[instance]

    def begin(self, instance: int) -> None:
        """A request is sent there."""
        self._busy[instance] += 1

    def end(self, instance: int, now_s: float) -> None:
        """One of its requests is over."""
        self._busy[instance] -= 1
        if instance in self._draining:
            self._leave_if_idle(instance, now_s)

    def call(self, now_s: float) -> int | None:
        """One that is not there, to be started, and paid for from now on; None if there is none."""
        if not self._reserve:
            return None
        instance = self._reserve.pop(0)
        self._called_s[instance] = now_s
        return instance

    def recall(self, instance: int, now_s: float) -> bool:
        """Send to it again, if it still finishes what it had."""
        if instance not in self._draining:
            return False
        self.join(instance, now_s)
        return True

    def served_s(self, now_s: float) -> list[float]:
        """How long each was there or being started."""
        since_s = [
            self._called_s.get(index, since_s if alive else now_s)
            for index, (since_s, alive) in enumerate(zip(self._since_s, self._alive, strict=True))
        ]
        return [served_s + now_s - begun_s for served_s, begun_s in zip(self._served_s, since_s, strict=True)]

    def _leave_if_idle(self, instance: int, now_s: float) -> None:
        if self._busy[instance] == 0:
            self.fail(instance, now_s)
            self._reserve.append(instance)

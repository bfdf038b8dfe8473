"""Adds or drains what keeps the SLO: simulates the next minutes with other numbers of instances."""

from __future__ import annotations

import math
from dataclasses import dataclass

from block.provisioning_config import ProvisioningSettings
from global_scheduler.provisioning.base import ArrivalProcess, EngineModel, Observation, Wish
from global_scheduler.provisioning.outlook import Objective, Outlook


@dataclass(frozen=True, slots=True)
class KeepSlo:
    """The fewest instances with which enough requests keep the SLO.

    Judged are requests that come once an added instance could serve: nothing helps those before.
    """

    settings: ProvisioningSettings
    engine: EngineModel

    def wish(self, seen: Observation, arrivals: ArrivalProcess) -> Wish:
        """As many more as are needed, at once; one fewer at a time."""
        outlook = self._outlook(seen, arrivals, 0.0)
        allowed = 1.0 - self.settings.slo_share
        misses = self._with_added(outlook, seen, 0)
        if misses > allowed:
            return self._more(outlook, seen, misses, allowed)
        return self._fewer(seen, arrivals, misses, allowed)

    def _more(self, outlook: Outlook, seen: Observation, misses: float, allowed: float) -> Wish:
        room = self.settings.max_instances - seen.count
        if room <= 0:
            return Wish(1, f"{misses:.1%} would miss the SLO", {"misses": misses})
        best = self._with_added(outlook, seen, room)
        # Where even all of them miss, no more are taken than help.
        enough = max(allowed, best + allowed)
        low, high, then = 0, room, best
        while high - low > 1:
            middle = (low + high) // 2
            found = self._with_added(outlook, seen, middle)
            if found <= enough:
                high, then = middle, found
            else:
                low = middle
        reason = f"{misses:.1%} would miss the SLO, {then:.1%} with {high} more"
        return Wish(high, reason, {"misses": misses, "misses_then": then})

    def _fewer(self, seen: Observation, arrivals: ArrivalProcess, misses: float, allowed: float) -> Wish:
        reason, effect = f"{misses:.1%} would miss the SLO", {"misses": misses}
        if seen.starting_s or len(seen.instances) <= self.settings.min_instances:
            return Wish(0, reason, effect)
        busier = self._outlook(seen, arrivals, self.settings.headroom)
        least = min(range(len(seen.instances)), key=lambda place: _requests(seen, place))
        rest = seen.instances[:least] + seen.instances[least + 1 :]
        then = busier.misses(rest, (), 0.0)
        effect = {**effect, "misses_then": then}
        if then > allowed:
            return Wish(0, f"{reason}, {then:.1%} with one fewer and more load", effect)
        return Wish(-1, f"{then:.1%} would miss the SLO with one fewer and more load", effect)

    def _with_added(self, outlook: Outlook, seen: Observation, added: int) -> float:
        starting_s = (*seen.starting_s, *[self.settings.cold_start_s] * added)
        return outlook.misses(seen.instances, starting_s, self.settings.cold_start_s)

    def _outlook(self, seen: Observation, arrivals: ArrivalProcess, headroom: float) -> Outlook:
        settings = self.settings
        objective = Objective(settings.slo_ttft_s or math.inf, settings.slo_e2e_s or math.inf)
        return Outlook.of(seen, arrivals, self.engine, objective, settings.horizon_s, headroom)


def _requests(seen: Observation, place: int) -> int:
    load = seen.instances[place].load
    return load.running + load.waiting + load.committed

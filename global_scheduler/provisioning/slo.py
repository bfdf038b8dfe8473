"""Adds or drains what keeps the SLO: simulates the next minutes with other numbers of instances."""

from __future__ import annotations

import math
from dataclasses import dataclass

from block.provisioning_config import ProvisioningSettings
from global_scheduler.provisioning.base import ArrivalProcess, EngineModel, Observation, Wish
from global_scheduler.provisioning.outlook import Horizon, Misses, Objective, Outlook

_NEARLY = 1.1
"""Lateness is as good as another that is not a tenth above it."""


@dataclass(frozen=True, slots=True)
class KeepSlo:
    """The fewest instances with which enough requests keep the SLO.

    Judged are requests that come once an added instance could serve: nothing helps those before.
    """

    settings: ProvisioningSettings
    engine: EngineModel

    def wish(self, seen: Observation, arrivals: ArrivalProcess) -> Wish:
        """As many more as are needed, at once; one fewer at a time."""
        if arrivals.rate_per_s > 0 and not seen.sizes:
            return Wish(0, "no request has ended yet, so that none like it can be simulated")
        outlook = self._outlook(seen, arrivals, 0.0)
        allowed = 1.0 - self.settings.slo_share
        now = self._with_added(outlook, seen, 0)
        if now.share > allowed:
            return self._more(outlook, seen, now, allowed)
        return self._fewer(seen, arrivals, now, allowed)

    def _more(self, outlook: Outlook, seen: Observation, now: Misses, allowed: float) -> Wish:
        reason, effect = f"{now.share:.1%} would miss the SLO", {"misses": now.share}
        room = self.settings.max_instances - seen.count
        if room <= 0:
            return Wish(1, reason, effect)
        best = self._with_added(outlook, seen, room)
        if _as_good(now, best, allowed):
            return Wish(
                0, f"{reason}, and {best.share:.1%} with {room} more", {**effect, "misses_then": best.share}
            )
        low, high, then = 0, room, best
        while high - low > 1:
            middle = (low + high) // 2
            found = self._with_added(outlook, seen, middle)
            if _as_good(found, best, allowed):
                high, then = middle, found
            else:
                low = middle
        return Wish(
            high, f"{reason}, {then.share:.1%} with {high} more", {**effect, "misses_then": then.share}
        )

    def _fewer(self, seen: Observation, arrivals: ArrivalProcess, now: Misses, allowed: float) -> Wish:
        reason, effect = f"{now.share:.1%} would miss the SLO", {"misses": now.share}
        if seen.starting_s or len(seen.instances) <= self.settings.min_instances:
            return Wish(0, reason, effect)
        busier = self._outlook(seen, arrivals, self.settings.headroom)
        least = min(range(len(seen.instances)), key=lambda place: _requests(seen, place))
        rest = seen.instances[:least] + seen.instances[least + 1 :]
        then = busier.misses(rest, (), 0.0).share
        effect = {**effect, "misses_then": then}
        if then > allowed:
            return Wish(0, f"{reason}, {then:.1%} with one fewer and more load", effect)
        return Wish(-1, f"{then:.1%} would miss the SLO with one fewer and more load", effect)

    def _with_added(self, outlook: Outlook, seen: Observation, added: int) -> Misses:
        starting_s = (*seen.starting_s, *[self.settings.cold_start_s] * added)
        return outlook.misses(seen.instances, starting_s, self.settings.cold_start_s)

    def _outlook(self, seen: Observation, arrivals: ArrivalProcess, headroom: float) -> Outlook:
        settings = self.settings
        objective = Objective(settings.slo_ttft_s or math.inf, settings.slo_e2e_s or math.inf)
        engine = self.engine.at(seen.pace)
        horizon = Horizon(settings.horizon_s, settings.cold_start_s)
        return Outlook.of(seen, arrivals, engine, objective, horizon, headroom)


def _as_good(found: Misses, best: Misses, allowed: float) -> bool:
    """Whether so many do what the most could: keep the SLO or, where those do not, come as near to it."""
    if best.share <= allowed:
        return found.share <= allowed
    return found.share <= best.share + allowed and found.late_s <= best.late_s * _NEARLY


def _requests(seen: Observation, place: int) -> int:
    load = seen.instances[place].load
    return load.running + load.waiting + load.committed

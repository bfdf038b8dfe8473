"""Keeps a strategy in bounds: fewest and most, cool-down, patience, dry run, and who is drained.

Knows no clock and no fleet; the same observations give the same decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from block.provisioning_config import ProvisioningSettings
from global_scheduler.provisioning.arrivals import ArrivalHistory
from global_scheduler.provisioning.base import InstanceSeen, Observation, Strategy, Wish


class Decision(msgspec.Struct, frozen=True):
    """What came of one look, and why. A line of the log."""

    at_s: float
    strategy: str
    instances: int
    """In service."""
    starting: int
    rate_per_s: float
    """Of the arrivals."""
    wished: int
    reason: str
    add: int = 0
    """Instances to start."""
    drain: tuple[str, ...] = ()
    """Instances to send nothing more and end once they are idle."""
    held: str = ""
    """Why less is done than was wished."""
    effect: Mapping[str, float] = {}
    """What the strategy predicts."""
    dry_run: bool = False

    @property
    def changes(self) -> bool:
        """Whether something is to be done."""
        return bool(self.add or self.drain)

    @property
    def line(self) -> str:
        """As it stands in the log."""
        return msgspec.json.encode(self).decode()


class Controller:
    """Turns looks at a fleet into decisions."""

    def __init__(self, settings: ProvisioningSettings, strategy: Strategy) -> None:
        self.settings = settings
        self._strategy = strategy
        self._history = ArrivalHistory(settings.window_s)
        self._changed_s = -math.inf
        self._spare_since_s: float | None = None

    def decide(self, seen: Observation) -> Decision:
        """What to do now. A decision counts as done; a dry run's counts likewise."""
        self._history.note(seen.at_s, seen.requests)
        arrivals = self._history.process
        wish = self._bounded(seen) or self._strategy.wish(seen, arrivals)
        change, held = self._allowed(wish, seen)
        drained = _emptiest(seen.instances, -change)
        if change:
            self._changed_s, self._spare_since_s = seen.at_s, None
        return Decision(
            at_s=seen.at_s,
            strategy=self.settings.strategy,
            instances=len(seen.instances),
            starting=len(seen.starting_s),
            rate_per_s=arrivals.rate_per_s,
            wished=wish.change,
            reason=wish.reason,
            add=max(change, 0),
            drain=drained,
            held=held,
            effect=wish.effect,
            dry_run=self.settings.dry_run,
        )

    def _bounded(self, seen: Observation) -> Wish | None:
        """What the bounds alone ask for."""
        fewest, most = self.settings.min_instances, self.settings.max_instances
        if seen.count < fewest:
            return Wish(fewest - seen.count, f"{seen.count} instances are below min_instances = {fewest}")
        if seen.count > most:
            return Wish(most - seen.count, f"{seen.count} instances are above max_instances = {most}")
        return None

    def _allowed(self, wish: Wish, seen: Observation) -> tuple[int, str]:
        """The change that is made, and what held the rest back."""
        if wish.change >= 0:
            self._spare_since_s = None
        elif self._spare_since_s is None:
            self._spare_since_s = seen.at_s
        if wish.change == 0:
            return 0, ""
        if seen.changing:
            return 0, "an earlier change is being made"
        if seen.at_s - self._changed_s < self.settings.cool_down_s:
            return 0, "cool-down"
        if wish.change > 0:
            return self._cut(wish.change, self.settings.max_instances - seen.count, "max_instances")
        assert self._spare_since_s is not None
        if seen.at_s - self._spare_since_s < self.settings.patience_s:
            return 0, "patience"
        # What starts does not serve yet, so it cannot stand in for what is drained.
        room = len(seen.instances) - self.settings.min_instances
        drained, held = self._cut(-wish.change, room, "min_instances")
        return -drained, held

    def _cut(self, wanted: int, room: int, bound: str) -> tuple[int, str]:
        change = max(min(wanted, room), 0)
        return change, bound if change < wanted else ""


def _emptiest(instances: tuple[InstanceSeen, ...], count: int) -> tuple[str, ...]:
    """Those with the fewest requests; of equals, with the least work, then the last."""

    def held(one: tuple[int, InstanceSeen]) -> tuple[int, int, int]:
        place, load = one[0], one[1].load
        return load.running + load.waiting + load.committed, load.unprocessed_tokens, -place

    return tuple(one.name for _, one in sorted(enumerate(instances), key=held)[: max(count, 0)])

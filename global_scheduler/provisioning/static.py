"""Leaves the fleet as it is."""

from __future__ import annotations

from global_scheduler.provisioning.base import ArrivalProcess, Observation, Wish


class Static:
    """Wishes nothing."""

    def wish(self, seen: Observation, arrivals: ArrivalProcess) -> Wish:
        """Only the bounds may change something."""
        del seen, arrivals
        return Wish(0, "static")

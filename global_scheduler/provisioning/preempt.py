"""Adds an instance before users feel it: the predicted minimum passes the threshold (arXiv 2508.03611)."""

from __future__ import annotations

from block.provisioning_config import ProvisioningSettings
from global_scheduler.provisioning.base import ArrivalProcess, Observation, Wish
from global_scheduler.provisioning.threshold import by_threshold


class Preempt:
    """Looks at what the best instance is predicted to do."""

    def __init__(self, settings: ProvisioningSettings) -> None:
        self._settings = settings

    def wish(self, seen: Observation, arrivals: ArrivalProcess) -> Wish:
        """By the predicted E2E at the best instance."""
        del arrivals
        return by_threshold(seen.predicted_e2e_s, "predicted", self._settings)

"""Adds an instance when users have felt it: a measured latency passes the threshold (arXiv 2508.03611)."""

from __future__ import annotations

from block.provisioning_config import ProvisioningSettings
from global_scheduler.provisioning.base import ArrivalProcess, Observation, Wish
from global_scheduler.provisioning.threshold import by_threshold


class Relief:
    """Looks at the answers since the last look."""

    def __init__(self, settings: ProvisioningSettings) -> None:
        self._settings = settings

    def wish(self, seen: Observation, arrivals: ArrivalProcess) -> Wish:
        """By the highest measured E2E."""
        del arrivals
        return by_threshold(seen.measured_e2e_s, "measured", self._settings)

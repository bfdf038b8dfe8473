"""One latency against a threshold: what relief and preempt share."""

from __future__ import annotations

from block.provisioning_config import ProvisioningSettings
from global_scheduler.provisioning.base import Wish


def by_threshold(latency_s: float | None, what: str, settings: ProvisioningSettings) -> Wish:
    """One more above ``threshold_s``, one fewer below ``spare_below_s``."""
    if latency_s is None:
        return Wish(0, f"no {what} E2E is known")
    effect = {"e2e_s": latency_s}
    if latency_s > settings.threshold_s:
        return Wish(1, f"{what} E2E {latency_s:.1f} s is above {settings.threshold_s:g} s", effect)
    if settings.spare_below_s is not None and latency_s < settings.spare_below_s:
        return Wish(-1, f"{what} E2E {latency_s:.1f} s is below {settings.spare_below_s:g} s", effect)
    return Wish(0, f"{what} E2E {latency_s:.1f} s", effect)

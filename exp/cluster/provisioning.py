"""When a cluster gets another instance, and when it gives one back: pure rules over what was seen.

The two rules are Block's (arXiv 2508.03611): add one when the *predicted* latency passes a threshold, or
when a *measured* one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Signal = Literal["predicted", "measured"]


@dataclass(frozen=True, slots=True)
class Provisioning:
    """The rule and its measures, in seconds."""

    signal: Signal
    """The chosen instance's predicted E2E at each decision, or each answer's real one."""
    threshold_s: float
    """Above it another instance is called for."""
    cold_start_s: float = 30.0
    """From the call to the first request that it can take."""
    pause_s: float = 30.0
    """No second call within so long of the first."""
    spare_below_s: float = 0.0
    """Below it, for ``spare_after_s`` on end, one instance is drained; 0: never."""
    spare_after_s: float = 120.0
    fewest: int = 1
    """Never drained below that many."""


class ProvisioningRule:
    """Watches one signal; knows no instances and no clock."""

    def __init__(self, provisioning: Provisioning) -> None:
        self.provisioning = provisioning
        self._called_s = -provisioning.pause_s
        self._calm_since_s: float | None = None

    def notice(self, signal: Signal, latency_s: float, now_s: float) -> int:
        """One more latency is known: +1 calls for an instance, -1 gives one back, 0 leaves it."""
        rule = self.provisioning
        if signal != rule.signal:
            return 0
        if latency_s > rule.threshold_s:
            self._calm_since_s = None
            if now_s - self._called_s < rule.pause_s:
                return 0
            self._called_s = now_s
            return 1
        return -self._spare(latency_s, now_s)

    def _spare(self, latency_s: float, now_s: float) -> int:
        rule = self.provisioning
        if latency_s >= rule.spare_below_s:
            self._calm_since_s = None
            return 0
        if self._calm_since_s is None:
            self._calm_since_s = now_s
        if now_s - self._calm_since_s < rule.spare_after_s:
            return 0
        self._calm_since_s = now_s
        return 1

"""How a fleet follows its load: the ``provisioning`` section of a cluster file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from block.settings import Flag, Seconds, Settings, Share, Whole

StrategyName = Literal["static", "relief", "preempt", "slo"]


class ProvisioningSettings(Settings):
    """When instances are added and drained; the same on real fleets and in the simulation."""

    strategy: StrategyName = Field("slo", description="What decides: static, relief, preempt or slo.")
    min_instances: Whole = Field(1, ge=1, le=64, description="Never drained below so many.")
    max_instances: Whole = Field(12, ge=1, le=64, description="Never added beyond so many.")
    interval_s: Seconds = Field(5.0, description="Between two looks at the fleet.")
    cool_down_s: Seconds = Field(30.0, description="After a change, nothing is changed for so long.")
    patience_s: Seconds = Field(
        60.0, description="So long on end one instance must be one too many before it is drained."
    )
    cold_start_s: Seconds = Field(
        60.0, description="From asking for an instance to its first request, as is expected."
    )
    threshold_s: Seconds = Field(
        70.0, description="Of relief and preempt: an E2E above it calls for one more instance."
    )
    spare_below_s: Seconds | None = Field(
        None, description="Of relief and preempt: an E2E below it can spare one; None never drains."
    )
    slo_ttft_s: Seconds | None = Field(3.0, description="Of slo: the longest acceptable TTFT; None: any.")
    slo_e2e_s: Seconds | None = Field(None, description="Of slo: the longest acceptable E2E; None: any.")
    slo_share: Share = Field(0.99, description="Of slo: the share of requests that must keep both.")
    horizon_s: Seconds = Field(
        180.0, description="Of slo: how far it simulates, which must be beyond cold_start_s."
    )
    window_s: Seconds = Field(120.0, description="Of slo: arrivals of so long are taken for the next ones.")
    headroom: Annotated[float, Field(strict=True, ge=0, le=10)] = Field(
        0.05, description="Of slo: one is drained only if the others also hold so much more load."
    )
    dry_run: Flag = Field(False, description="Decide and log, but change nothing.")
    log: Path | None = Field(
        None, description="File of decisions, a line of JSON each; None: in the fleet's run folder."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min_instances > self.max_instances:
            raise PydanticCustomError(
                "range", "min_instances is above max_instances; lower the one or raise the other"
            )
        if self.strategy == "slo" and self.horizon_s <= self.cold_start_s:
            raise PydanticCustomError(
                "horizon", "horizon_s is not beyond cold_start_s, so nothing added could help; raise it"
            )
        if self.strategy == "slo" and self.slo_ttft_s is None and self.slo_e2e_s is None:
            raise PydanticCustomError("no_slo", "slo needs slo_ttft_s or slo_e2e_s; set one")
        if self.spare_below_s is not None and self.spare_below_s >= self.threshold_s:
            raise PydanticCustomError("range", "spare_below_s must be below threshold_s")
        return self

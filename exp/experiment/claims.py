"""What a spec holds its results against: a paper's figures and findings, and goals that were set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from block.settings import Settings

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Rate = Annotated[float, Field(strict=True, gt=0, le=1e6)]


class Place(Settings):
    """Where in the matrix something is claimed."""

    engine: Name = "default"
    workload: Name = "sharegpt"

    @property
    def place(self) -> tuple[str, str]:
        """As ``exp.experiment.summary.groups`` names it."""
        return self.engine, self.workload

    @property
    def named(self) -> set[str]:
        """Policies that the claim is about."""
        return set()


class PublishedFigure(Place):
    """A figure that a paper gives, to stand beside ours."""

    what: str = Field(min_length=1, description="Name and unit, as the results' page shows them.")
    measure: str = Field(min_length=1, description="A name of exp.experiment.summary.MEASURES.")
    policy: Name
    rate_per_s: Rate
    scale: float = Field(1.0, gt=0, description="Our measure times this has the paper's unit.")
    value: str = Field(min_length=1, description="As the paper has it; a range may be 26-27.")
    why: str = Field("", description="Why ours differs.")

    @property
    def named(self) -> set[str]:
        """The one."""
        return {self.policy}


class ExpectedOrder(Place):
    """An order of capacities that a paper found."""

    slo_ttft_s: Rate
    pairs: tuple[tuple[Name, Literal["~", "<", "<="], Name], ...] = Field(
        min_length=1, description="Left carries about as much as, less than, or no more than right."
    )
    why: str = Field("", description="Why ours differs, where it does.")

    @property
    def named(self) -> set[str]:
        """Both sides of all pairs."""
        return {name for left, _, right in self.pairs for name in (left, right)}


class WidestGain(Place):
    """That a policy gains more over another here than on all other engines of the spec."""

    slo_ttft_s: Rate
    policy: Name
    over: Name
    why: str = Field("", description="Why ours differs, where it does.")

    @property
    def named(self) -> set[str]:
        """Both."""
        return {self.policy, self.over}


class Goal(Place):
    """What was to be gained over the best of some policies."""

    policies: tuple[Name, ...] = Field(min_length=1, description="Ours; each is judged.")
    over: tuple[Name, ...] = Field(min_length=1, description="The best of these is what counts.")
    slo_ttft_s: Rate = 3.0
    capacity_gain: float | None = Field(None, gt=0, description="Share of capacity; 0.25 is +25 %.")
    tail_cut: float | None = Field(
        None, gt=0, lt=1, description="Share of P99 TTFT at equal load; 0.75 is a quarter of it left."
    )

    @property
    def named(self) -> set[str]:
        """Ours and theirs."""
        return {*self.policies, *self.over}

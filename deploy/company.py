"""Which predictors of one host share a process and a port. Pure: numbers of instances in, companies out.

A predictor that is alone is found at the root of its port, the others at ``/of/INSTANCE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from block.messages import SHARED_PLACE


@dataclass(frozen=True, slots=True)
class Company:
    """The instances, by number, whose predictors one process serves; at least one."""

    members: tuple[int, ...]

    @property
    def first(self) -> int:
        """It gives the company its port and its name."""
        return self.members[0]

    @property
    def shared(self) -> bool:
        """Whether there are several."""
        return len(self.members) > 1

    @property
    def name(self) -> str:
        """Of the process."""
        return f"predictors-{self.first}" if self.shared else f"predictor-{self.first}"

    def path(self, instance: str) -> str:
        """Where on the port one member's predictor is found."""
        return f"{SHARED_PLACE.decode()}{instance}" if self.shared else ""


def companies(instances: Sequence[int], most: int) -> tuple[Company, ...]:
    """The instances of one host in companies of at most ``most``, in their order."""
    return tuple(Company(tuple(instances[start : start + most])) for start in range(0, len(instances), most))

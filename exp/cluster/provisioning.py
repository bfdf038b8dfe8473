"""A controller over a simulated cluster: what it sees there, and what was measured since its last look."""

from __future__ import annotations

from collections import deque

import numpy as np

from block.simulation.fleet import EngineFleet
from block.types import EngineLoad
from exp.cluster.membership import Membership
from exp.cluster.spec import ClusterSpec
from global_scheduler.provisioning import Controller, Decision, EngineModel, Observation, make_controller
from global_scheduler.provisioning.base import InstanceSeen

_SIZES = 4096
"""Latest requests whose sizes are taken for the next ones."""


class SimulatedProvisioning:
    """Collects what a real controller would be told; decides by the real strategies."""

    def __init__(self, spec: ClusterSpec, fleet: EngineFleet, members: Membership) -> None:
        assert spec.provisioning is not None
        self.settings = spec.provisioning
        self.decisions: list[Decision] = []
        self._fleet, self._members = fleet, members
        first = spec.instances[0]
        engine = EngineModel(first.limits, first.believed or first.latency)
        self._controller: Controller = make_controller(spec.provisioning, engine)
        self._ready_s: dict[int, float] = {}
        self._dismissed: list[int] = []
        self._requests = 0
        self._sizes: deque[tuple[int, int]] = deque(maxlen=_SIZES)
        self._measured_e2e_s: float | None = None
        self._predicted_e2e_s: float | None = None

    def arrived(self, prompt_tokens: int, output_tokens: int) -> None:
        """One more request, with the response that is expected."""
        self._requests += 1
        self._sizes.append((prompt_tokens, output_tokens))

    def measured(self, e2e_s: float) -> None:
        """A request was answered."""
        self._measured_e2e_s = max(e2e_s, self._measured_e2e_s or 0.0)

    def predicted(self, least_e2e_s: float) -> None:
        """What a request would meet at its best instance; the worst such counts."""
        self._predicted_e2e_s = max(least_e2e_s, self._predicted_e2e_s or 0.0)

    def called(self, instance: int, ready_s: float) -> None:
        """It will be there then."""
        self._ready_s[instance] = ready_s

    def joined(self, instance: int) -> None:
        """It is there."""
        self._ready_s.pop(instance, None)

    def dismissed(self, instance: int) -> None:
        """It gets nothing new."""
        self._dismissed.append(instance)

    def recall(self, now_s: float) -> bool:
        """Take back what was dismissed last and has not left yet; False if there is nothing."""
        while self._dismissed:
            if self._members.recall(self._dismissed.pop(), now_s):
                return True
        return False

    def decide(self, now_s: float) -> Decision:
        """Look, and say what is to be done; nothing in a dry run."""
        decision = self._controller.decide(self._seen(now_s))
        self._measured_e2e_s = self._predicted_e2e_s = None
        self.decisions.append(decision)
        return decision

    def _seen(self, now_s: float) -> Observation:
        eligible = list(self._members.eligible)
        loads = self._fleet.loads(np.array(eligible, np.int64), now_s).tolist()
        return Observation(
            at_s=now_s,
            instances=tuple(
                InstanceSeen(str(index), EngineLoad(*load))
                for index, load in zip(eligible, loads, strict=True)
            ),
            starting_s=tuple(max(ready_s - now_s, 0.0) for ready_s in self._ready_s.values()),
            requests=self._requests,
            sizes=tuple(self._sizes),
            measured_e2e_s=self._measured_e2e_s,
            predicted_e2e_s=self._predicted_e2e_s,
        )

"""How many instances a fleet has: strategies by name, and the controller that keeps them in bounds.

Separate from the routers, and without any I/O: what is seen of a fleet comes in as an ``Observation``, what
is to be done goes out as a ``Decision``. Deployments and the cluster simulation act on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from block.provisioning_config import ProvisioningSettings
from global_scheduler.provisioning.base import EngineModel, Observation, Strategy, Wish
from global_scheduler.provisioning.controller import Controller, Decision
from global_scheduler.provisioning.preempt import Preempt
from global_scheduler.provisioning.relief import Relief
from global_scheduler.provisioning.static import Static

__all__ = [
    "STRATEGIES",
    "Controller",
    "Decision",
    "EngineModel",
    "Observation",
    "Strategy",
    "Wish",
    "make_controller",
]


def _slo(settings: ProvisioningSettings, engine: EngineModel) -> Strategy:
    # Only this one loads the simulation.
    from global_scheduler.provisioning.slo import KeepSlo

    return KeepSlo(settings, engine)


STRATEGIES: Mapping[str, Callable[[ProvisioningSettings, EngineModel], Strategy]] = {
    "static": lambda _settings, _engine: Static(),
    "relief": lambda settings, _engine: Relief(settings),
    "preempt": lambda settings, _engine: Preempt(settings),
    "slo": _slo,
}


def make_controller(settings: ProvisioningSettings, engine: EngineModel) -> Controller:
    """The controller with its strategy."""
    return Controller(settings, STRATEGIES[settings.strategy](settings, engine))

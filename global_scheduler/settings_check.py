"""Checks the settings whose values are names of parts: the kernel's configuration cannot know those.

For whoever reads a configuration, so that a wrong name is found before anything starts.
"""

from __future__ import annotations

from collections.abc import Callable

from block.config import SchedulerSettings
from block.errors import ConfigError
from global_scheduler.policies import make_policies
from length_estimation.service_factory import SERVED


def check_settings(settings: SchedulerSettings, place: Callable[[str], str]) -> None:
    """Raise ConfigError for an unknown policy or estimator, or a policy's unknown or bad option.

    ``place`` tells for a field's name where it stands: the source and the dotted name.
    """
    make_policies(settings, place)
    if settings.estimator not in SERVED:
        known = ", ".join(SERVED)
        raise ConfigError(f"{place('estimator')} = {settings.estimator!r}: unknown; known: {known}")

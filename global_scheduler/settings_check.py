"""Checks the settings whose values are names of parts: the kernel's configuration cannot know those.

For whoever reads a configuration, so that a wrong name is found before anything starts.
"""

from __future__ import annotations

from collections.abc import Callable

from block.config import SchedulerSettings
from block.errors import ConfigError
from global_scheduler.policies import POLICIES
from length_estimation.service_factory import SERVED


def check_settings(settings: SchedulerSettings, place: Callable[[str], str]) -> None:
    """Raise ConfigError for an unknown policy or estimator.

    ``place`` tells for a field's name where it stands: the source and the dotted name.
    """
    for field, value, known in (
        ("policy", settings.policy, POLICIES),
        ("estimator", settings.estimator, SERVED),
    ):
        if value not in known:
            raise ConfigError(f"{place(field)} = {value!r}: unknown; known: {', '.join(known)}")

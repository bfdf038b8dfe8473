"""Routing policies, one small pure file each, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from block.config import SchedulerSettings
from block.errors import ConfigError
from global_scheduler.policies.base import Candidate, Choice, Needs, Policy, RoutingRequest
from global_scheduler.policies.block import Block
from global_scheduler.policies.block_nosim import BlockNosim
from global_scheduler.policies.infaas import Infaas, InfaasTextbook
from global_scheduler.policies.least_request import LeastRequest
from global_scheduler.policies.llumnix import Llumnix, LlumnixTextbook
from global_scheduler.policies.lmetric import LMetric
from global_scheduler.policies.making import Place, build_policy, check_contract, load_policy_class
from global_scheduler.policies.min_latency import MinLatency
from global_scheduler.policies.min_qpm import MinQpm
from global_scheduler.policies.power_of_two import PowerOfTwo
from global_scheduler.policies.prefix_affinity import PrefixAffinity
from global_scheduler.policies.random_choice import RandomChoice
from global_scheduler.policies.round_robin import RoundRobin
from global_scheduler.policies.session import Session

__all__ = [
    "POLICIES",
    "Candidate",
    "Choice",
    "Needs",
    "Policy",
    "RoutingRequest",
    "make_policies",
    "make_policy",
]

POLICIES: Mapping[str, Callable[..., Policy]] = {
    "block": Block,
    "block_nosim": BlockNosim,
    "infaas": Infaas,
    "infaas_textbook": InfaasTextbook,
    "least_request": LeastRequest,
    "llumnix": Llumnix,
    "llumnix_textbook": LlumnixTextbook,
    "lmetric": LMetric,
    "min_latency": MinLatency,
    "min_qpm": MinQpm,
    "power_of_two": PowerOfTwo,
    "prefix_affinity": PrefixAffinity,
    "random": RandomChoice,
    "round_robin": RoundRobin,
    "session": Session,
}


def make_policy(name: str, options: Mapping[str, Any] | None = None, place: Place = str) -> Policy:
    """Build the policy of that name, or of that ``package.module:Class``.

    ``place`` tells for a setting's name where it stands. Raises ConfigError that lists what is known.
    """
    if ":" in name:
        policy = build_policy(load_policy_class(name, place), name, options or {}, place)
        check_contract(policy, name, place)
        return policy
    if name not in POLICIES:
        raise ConfigError(_unknown(place("policy"), name))
    return build_policy(POLICIES[name], name, options or {}, place)


def make_policies(settings: SchedulerSettings, place: Place = str) -> dict[str, Policy]:
    """All that a request may name: the table, and the default if that is one of the operator's own.

    Raises ConfigError for an unknown policy or option, or an option's bad value.
    """
    names = dict.fromkeys((*POLICIES, settings.policy))
    for name in settings.policy_options:
        if name not in names:
            raise ConfigError(_unknown(place(f"policy_options.{name}"), name))
    return {name: make_policy(name, settings.policy_options.get(name), place) for name in names}


def _unknown(where: str, name: str) -> str:
    return f"{where} = {name!r}: unknown; known: {', '.join(POLICIES)}, or package.module:Class of your own"

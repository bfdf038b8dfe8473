"""From a name and options to a policy: the edge where settings become typed values.

A policy's options are the fields of its dataclass. A name with a colon is a class of the operator's own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from block.errors import ConfigError
from global_scheduler.policies.base import Candidate, Choice, Needs, Policy, RoutingRequest

Place = Callable[[str], str]
"""Tells for a setting's name where it stands, for errors."""

_REQUEST = RoutingRequest("check", "", 1, 1, 1, 0, sequence=0, seed=0)
_CANDIDATES = (Candidate("first", 0), Candidate("second", 1))


def load_policy_class(path: str, place: Place) -> Callable[..., Policy]:
    """The class at ``package.module:Class``. Raises ConfigError that says what is not there."""
    module_name, _, class_name = path.partition(":")
    where = f"{place('policy')} = {path!r}"
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError, SyntaxError) as error:
        raise ConfigError(
            f"{where}: cannot import {module_name!r} ({error}); "
            "give package.module:Class, and have the package installed or on PYTHONPATH"
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise ConfigError(f"{where}: {module_name} has no class {class_name!r}")
    return found


def build_policy(
    factory: Callable[..., Policy], name: str, options: Mapping[str, Any], place: Place
) -> Policy:
    """One with these options. Raises ConfigError that names the option and what is known or allowed."""
    if not options:
        return _constructed(factory, name, place)
    known: list[str] = (
        [field.name for field in fields(factory) if field.init] if is_dataclass(factory) else []
    )
    for option, value in options.items():
        if option not in known:
            raise ConfigError(
                f"{place(f'policy_options.{name}.{option}')} = {value!r}: unknown option; "
                + (f"known: {', '.join(known)}" if known else f"{name} has none")
            )
    try:
        policy: Policy = TypeAdapter(cast("Any", factory)).validate_python(options)
    except ValidationError as error:
        lines = [_explain(name, item, place) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from error
    return policy


def check_contract(policy: object, name: str, place: Place) -> None:
    """Raise ConfigError if this is plainly no policy, rather than failing at the first request."""
    where = f"{place('policy')} = {name!r}"
    if not isinstance(getattr(policy, "needs", None), Needs):
        raise ConfigError(f"{where}: its 'needs' must be a Needs")
    choose = getattr(policy, "choose", None)
    if not callable(choose):
        raise ConfigError(f"{where}: it has no method choose(request, candidates)")
    try:
        choice = choose(_REQUEST, _CANDIDATES)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise ConfigError(
            f"{where}: choose() fails without predictions: {type(error).__name__}: {error}; "
            "try it with global_scheduler.policies.kit"
        ) from error
    if not isinstance(choice, Choice) or not choice.ranks(_CANDIDATES):
        raise ConfigError(f"{where}: choose() must return a Choice that names every candidate once")


def _constructed(factory: Callable[..., Policy], name: str, place: Place) -> Policy:
    try:
        return factory()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place('policy')} = {name!r}: cannot be made without options: {error}") from error


def _explain(name: str, item: Any, place: Place) -> str:
    option = ".".join(str(part) for part in item["loc"])
    return f"{place(f'policy_options.{name}.{option}')} = {item['input']!r}: {item['msg']}"

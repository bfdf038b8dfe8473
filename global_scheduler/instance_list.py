"""Edits of a list of instances, for the admin API. Pure; each raises RequestError if it makes no sense."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from block.config import InstanceConfig
from block.errors import RequestError

Configs = tuple[InstanceConfig, ...]
Edit = Callable[[Sequence[InstanceConfig]], Configs]


def with_new(new: InstanceConfig, configs: Sequence[InstanceConfig]) -> Configs:
    """One more, at the end. 409 if the name is taken by another; the same one again changes nothing."""
    for config in configs:
        if config.name == new.name and (config.url, config.predictor_url) != (new.url, new.predictor_url):
            raise RequestError(
                f"{new.name!r} is taken, by {config.url}; delete it first, or choose another name",
                status=409,
                code="name_taken",
                param="name",
            )
    if any(config.name == new.name for config in configs):
        return tuple(new if config.name == new.name else config for config in configs)
    return (*configs, new)


def without(name: str, configs: Sequence[InstanceConfig]) -> Configs:
    """All but that one; 404 if there is none of that name."""
    _check_known(name, configs)
    return tuple(config for config in configs if config.name != name)


def with_draining(
    name: str, draining: bool, timeout_s: float | None, configs: Sequence[InstanceConfig]
) -> Configs:
    """That one gets no new requests, or does again; 404 if there is none of that name."""
    _check_known(name, configs)
    change = {"draining": draining, "drain_timeout_s": timeout_s}
    return tuple(config.model_copy(update=change) if config.name == name else config for config in configs)


def _check_known(name: str, configs: Sequence[InstanceConfig]) -> None:
    if all(config.name != name for config in configs):
        known = ", ".join(config.name for config in configs) or "none"
        raise RequestError(f"no instance {name[:64]!r}; known: {known}", status=404, code="no_such_instance")

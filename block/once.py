"""Mappings whose keys stand once: what JSON and YAML forbid or advise against, and their readers let pass."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml


class OnceLoader(yaml.SafeLoader):
    """Refuses a YAML mapping that has a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base class; raises ConstructorError that names the key."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in keys.items():
            if count > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


class GivenTwiceError(ValueError):
    """A JSON object has a name twice."""


def fields_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json.loads`` as ``object_pairs_hook``; raises GivenTwiceError that names the field."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise GivenTwiceError(f"{name!r} is given twice")
    return fields

"""A transformer's sizes, read from its ``config.json``: Llama, Mistral and Qwen2/3 dense families.

Knows parameters, bytes and floating-point operations; nothing of any device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from block.errors import ConfigError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class ModelDimensions:
    """A dense decoder with gated feed-forward layers."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a ``config.json``; raises ConfigError that names file and field."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as a model's config.json ({error})") from error
        family = raw.get("model_type") if isinstance(raw, dict) else None
        if family not in FAMILIES:
            raise ConfigError(f"{path}: model_type = {family!r}: known are {', '.join(FAMILIES)}")
        hidden, heads = _size(raw, "hidden_size", path), _size(raw, "num_attention_heads", path)
        optional = {"num_key_value_heads": heads, "head_dim": hidden // heads}
        raw.update({name: value for name, value in optional.items() if raw.get(name) is None})
        return cls(
            layers=_size(raw, "num_hidden_layers", path),
            hidden=hidden,
            heads=heads,
            kv_heads=_size(raw, "num_key_value_heads", path),
            head_size=_size(raw, "head_dim", path),
            intermediate=_size(raw, "intermediate_size", path),
            vocabulary=_size(raw, "vocab_size", path),
        )

    @property
    def layer_weights(self) -> int:
        """Weights that every token passes: attention projections and feed-forward, all layers."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Weights of the output layer, which only tokens that are sampled pass."""
        return self.hidden * self.vocabulary

    @property
    def kv_values_per_token(self) -> int:
        """Keys and values cached per token, all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size

    @property
    def attention_flop_per_pair(self) -> int:
        """Scores and weighted sum for one (query token, cached token) pair, all layers."""
        return 4 * self.layers * self.heads * self.head_size


def _size(raw: dict[str, Any], name: str, path: Path) -> int:
    value = raw.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{path}: {name} = {value!r}: must be a whole number of at least 1")
    return value

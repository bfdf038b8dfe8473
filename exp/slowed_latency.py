"""A GPU so many times slower: emulated servers then leave room for this machine's other work."""

from __future__ import annotations

from pathlib import Path

import yaml

from block.latency.table import TableLatency


def slowed_latency(table: Path, factor: float, folder: Path) -> Path:
    """A latency table with every time of ``table``'s times ``factor``, written into ``folder``."""
    model = TableLatency.load(table)
    fields = model.table.model_dump()
    terms = {name: value * factor for name, value in fields.items() if isinstance(value, float)}
    curve = {tokens: ms * factor for tokens, ms in model.table.tokens_ms.items()}
    path = folder / f"{model.name}-{factor:g}-times-slower.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({**fields, **terms, "tokens_ms": curve}), encoding="utf-8")
    return path

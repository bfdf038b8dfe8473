"""From a model file to a ``StepLatencyModel``: the file's ``kind`` says which one.

Knows the kinds there are, and nothing of how each is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from block.config import load_config
from block.errors import ConfigError, PackError
from block.latency.base import StepLatencyModel
from block.latency.fitted import FittedLatency
from block.latency.pack_container import is_container
from block.latency.pack_latency import PackLatency
from block.latency.roofline import RooflineLatency
from block.latency.table import TableLatency
from block.settings import Settings

KINDS: Mapping[str, Callable[[Path], StepLatencyModel]] = {
    "table": TableLatency.load,
    "roofline": RooflineLatency.load,
    "fitted": FittedLatency.load,
    "pack": PackLatency.load,
}


class KindOnly(Settings, extra="ignore"):
    """The one field that every model file shares."""

    kind: str = "table"


def load_latency(path: Path) -> StepLatencyModel:
    """Read a model file of any kind, or a pack; raises ConfigError or PackError naming file and remedy."""
    if is_container(path):
        return PackLatency.load(path)
    _refuse_foreign(path)
    kind = load_config(path, KindOnly).kind
    if kind not in KINDS:
        raise ConfigError(f"{path}: kind = {kind!r}: unknown; known are {', '.join(KINDS)}")
    return KINDS[kind](path)


def _refuse_foreign(path: Path) -> None:
    """Name what a pack could be made from: read as settings, it would be told to be mended."""
    try:
        data = path.read_bytes()
    except OSError:
        return  # whoever reads it as settings says so
    remedy = ""
    if data[:1] == b"H" and b"\0" in data[:5]:
        remedy = "a recording's journal; make a pack of it with `block-exp pack from-journal`"
    elif data.lstrip()[:1] == b"{" and b'_2d_distribution"' in data:
        remedy = "a profile of LLM-Emu; make a pack of it with `block-exp pack import-llm-emu`"
    if remedy:
        raise PackError(f"{path}: is {remedy}")

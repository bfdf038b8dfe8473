"""Measured TTFT and TPOT of whole servers (aiconfigurator's collection) against operators and simulation.

Each point is measured again in the simulation, as its campaign measured it: the same users, lengths and
means. Nothing is tuned per point; memory is as the datasheet has it, and host time is taken to be hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from block.config import load_config
from block.errors import ConfigError, PackError, StateError
from block.latency.dimensions import ModelDimensions
from block.latency.gpu_memory import MemoryUse, kv_cache_bytes
from block.latency.roofline import Gpu
from block.types import EngineLimits
from exp.closed_loop import ClosedLoop
from exp.silicon_points import Point, read_points
from vidur_adapter.aiconfigurator import KernelTables
from vidur_adapter.model import OperatorModel
from vidur_adapter.sources import SYSTEMS
from vidur_adapter.tabulated import EngineRange, OperatorLatency, drawn_batches

CONFIG = Path(__file__).resolve().parent.parent / "config"
_BLOCK = 16
_DRAWN = 300
_BYTES = {"bfloat16": 2}
"""Per value, by precision; all others have one."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A point, and what was predicted of it."""

    point: Point
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class Silicon:
    """The collection, and the kernel tables beside it."""

    folder: Path
    failed: dict[str, int] = field(default_factory=dict)
    """Why points that tables were there for could not be predicted after all, and how many."""

    @property
    def points(self) -> tuple[Point, ...]:
        """Those on GPUs and models that there are tables for; raises PackError."""
        return self._read[0]

    @property
    def left_out(self) -> dict[str, int]:
        """Why the others were, and how many."""
        return {**self._read[1], **self.failed}

    def judged(self) -> Iterator[Judged]:
        """All points that can be predicted, in the file's order."""
        for point in self.points:
            try:
                yield self._judge(point)
            except (PackError, ConfigError, StateError) as error:
                why = str(error).removeprefix(f"{self.folder}/")
                self.failed[why] = self.failed.get(why, 0) + 1

    @cached_property
    def _read(self) -> tuple[tuple[Point, ...], dict[str, int]]:
        return read_points(self.folder / "silicon_sample_agg.csv")

    def _judge(self, point: Point) -> Judged:
        load = point.load
        tables = KernelTables(
            self.folder / SYSTEMS[point.gpu],
            _dimensions(point.model),
            point.devices,
            precision=point.precision,
            cache_precision=point.campaign.cache_precision,
        )
        limits = _limits(point)
        contexts = (int(load.prompt_tokens * load.shortest), limits.max_model_len)
        budget = limits.max_num_batched_tokens
        engine = EngineRange(load.users, budget, contexts, limits.max_model_len, context_spread=0.05)
        table = OperatorLatency.of(_operators(tables), drawn_batches(engine, count=_DRAWN))
        loop = ClosedLoop.of(limits, table.kernel, load)
        return Judged(point, loop.ttft_s, loop.tpot_s)


@cache
def _operators(tables: KernelTables) -> OperatorModel:
    return tables.build(tables.system.name, captured_tokens=512)


@cache
def _dimensions(model: str) -> ModelDimensions:
    return ModelDimensions.load(CONFIG / "models" / model / "config.json")


def _limits(point: Point) -> EngineLimits:
    """As many blocks as fit beside the weights, and a seat for every user."""
    model, load = _dimensions(point.model), point.load
    budget, weight_bytes = point.campaign.batched_tokens(load), _BYTES.get(point.precision, 1)
    use = MemoryUse(model, load.users, budget, value_bytes=weight_bytes, devices=point.devices)
    free = kv_cache_bytes(load_config(CONFIG / "gpus" / f"{point.gpu}.yaml", Gpu), use) * point.devices
    token_bytes = _BYTES.get(point.campaign.cache_precision, 1) * model.kv_values_per_token
    blocks, longest = int(free // (token_bytes * _BLOCK)), load.prompt_tokens + load.output_tokens
    return EngineLimits(_BLOCK, blocks, load.users, budget, longest + 1, async_scheduling=True)

"""A pack: the steps that one engine executed, and all that says what they may be used for.

One row per executed batch. A row's duration is the batch's own, from its submission, or its predecessor's
end if that is later, to its own end; ``host_s`` is what the engine itself took between the newest end
before a submission and that submission, while work was waiting. Without overlap a step's cadence is their
sum; with it, ``host_s`` hides behind the step before. Knows nothing of vLLM and fits no model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from block.errors import PackError
from block.latency.dimensions import ModelDimensions
from block.latency.least_squares import Floats
from block.latency.pack_container import Integers, read_container, write_container
from block.types import BatchShape, EngineLimits

PACK_VERSION = 1

_TICKS_PER_S = 1e7
"""Times are kept in whole tenths of microseconds."""
_NO_TIME = -1
_TIMES = ("submit_s", "ready_s")
_COUNTS = (
    "step",
    "prefill_tokens",
    "decode_tokens",
    "context_tokens",
    "prefill_context_products",
    "requests",
)


@dataclass(frozen=True)
class PackHeader:
    """What was run, where, and how. Unknown texts are empty, unknown numbers 0."""

    model: ModelDimensions | None
    """None where it was not told (imported packs)."""
    limits: EngineLimits
    kv_blocks: int
    """As vLLM's ``--num-gpu-blocks-override`` counts them, its null block included; 0 if unknown."""
    model_name: str = ""
    dtype: str = ""
    cache_dtype: str = ""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    flags: dict[str, str] = field(default_factory=dict)
    """Further flags that bear on step times: ``quantization`` (empty for none) and ``enforce_eager``."""
    vllm_version: str = ""
    device: str = ""
    executor: str = ""
    """Class whose forward passes were timed."""
    created_at: str = ""
    """ISO 8601 with time zone."""
    source: Literal["measured", "modelled"] = "measured"
    notes: str = ""
    version: int = PACK_VERSION

    @property
    def async_scheduling(self) -> bool:
        """Whether the next batch was scheduled while one ran, so that ``host_s`` overlaps."""
        return self.limits.async_scheduling

    @property
    def block_size(self) -> int:
        """Tokens per KV block."""
        return self.limits.block_size

    @property
    def quantization(self) -> str:
        """Of the weights; "none" if there was none, empty if that was not told."""
        return (self.flags["quantization"] or "none") if "quantization" in self.flags else ""


@dataclass(frozen=True)
class PackUse:
    """What an engine is that would use a pack. Unknown texts are empty, unknown numbers 0."""

    model: ModelDimensions | None = None
    block_size: int = 0
    dtype: str = ""
    cache_dtype: str = ""
    quantization: str = ""
    """Of the weights; the word none if there is none."""
    tensor_parallel: int = 0
    pipeline_parallel: int = 0
    vllm_version: str = ""
    limits: EngineLimits | None = None


@dataclass(frozen=True)
class StepPack:
    """Header and columns, equally long, in the order of execution.

    Times are seconds from the first submission.
    """

    header: PackHeader
    step: Integers
    """Numbers rise; a hole means that something was not recorded in between."""
    submit_s: Floats
    ready_s: Floats
    duration_s: Floats
    host_s: Floats
    """NaN where the engine was, or may have been, idle before."""
    prefill_tokens: Integers
    decode_tokens: Integers
    context_tokens: Integers
    prefill_context_products: Integers
    requests: Integers

    def __post_init__(self) -> None:
        """Raises PackError naming the first column that cannot be."""
        lengths = {name: len(getattr(self, name)) for name in COLUMNS}
        if len(set(lengths.values())) != 1:
            raise PackError(f"columns: not equally long: {lengths}")
        for name, wrong in self._impossible():
            if wrong.any():
                row = int(np.argmax(wrong))
                raise PackError(f"{name}[{row}] = {getattr(self, name)[row]}: cannot be")

    def __len__(self) -> int:
        return len(self.step)

    def shapes(self) -> Iterator[BatchShape]:
        """Each row's batch."""
        columns = [getattr(self, each.name).tolist() for each in fields(BatchShape)]
        return (BatchShape(*row) for row in zip(*columns, strict=True))

    @cached_property
    def shape_array(self) -> Floats:
        """(steps, columns) in the order of ``block.latency.shapes``."""
        tokens = self.prefill_tokens + self.decode_tokens
        columns = (tokens, self.context_tokens, self.prefill_context_products, self.requests)
        return np.column_stack([*columns, self.decode_tokens]).astype(np.float64)

    def check_use(self, use: PackUse, allow: Collection[str] = ()) -> list[str]:
        """Raise PackError if these steps say nothing about such an engine, naming every difference.

        ``allow`` names differences to accept. Returns what is merely doubtful, in words.
        """
        differences = self._differences(use)
        unknown = sorted(set(allow) - set(_REFUSED))
        if unknown:
            raise PackError(f"allow: {', '.join(unknown)}: unknown; known are {', '.join(_REFUSED)}")
        refused = [f"{name} ({text})" for name, text in differences.items() if name not in allow]
        if refused:
            raise PackError(f"pack made for another engine: {'; '.join(refused)}")
        return [*differences.values(), *self._doubts(use)]

    def _differences(self, use: PackUse) -> dict[str, str]:
        recorded = {name: getattr(self.header, name) for name in _REFUSED}
        return {
            name: f"{_difference(recorded[name], getattr(use, name))}"
            for name in _REFUSED
            if recorded[name] and getattr(use, name) and not _same(recorded[name], getattr(use, name))
        }

    def _doubts(self, use: PackUse) -> Iterator[str]:
        if use.limits is None:
            return
        for name in ("max_num_seqs", "max_num_batched_tokens", "total_blocks"):
            recorded, wanted = getattr(self.header.limits, name), getattr(use.limits, name)
            if recorded and wanted > recorded:
                yield f"{name}: recorded with {recorded}, used with {wanted}: larger batches are extrapolated"
        if use.limits.async_scheduling != self.header.async_scheduling:
            yield (
                f"async_scheduling: recorded {self.header.async_scheduling},"
                f" used {use.limits.async_scheduling}: durations hold, the engine's own time may not"
            )

    def _impossible(self) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        for name in _COUNTS:
            yield name, getattr(self, name) < 0
        for name in (*_TIMES, "duration_s"):
            values = getattr(self, name)
            yield name, ~np.isfinite(values) | (values < 0)
        yield "host_s", np.isinf(self.host_s) | (self.host_s < 0)
        yield "ready_s", self.ready_s < self.submit_s
        if len(self):
            yield "step", np.diff(self.step, prepend=self.step[0] - 1) < 1


_SIXTEEN_BITS = {"bfloat16": "float16"}
COLUMNS = tuple(each.name for each in fields(StepPack) if each.name != "header")
_REFUSED = (
    "model",
    "block_size",
    "dtype",
    "cache_dtype",
    "quantization",
    "tensor_parallel",
    "pipeline_parallel",
    "vllm_version",
)


def save_pack(path: Path, pack: StepPack) -> None:
    """Write one file, whole or not at all; times are rounded to 0.1 us. Raises PackError."""
    columns = {name: _encoded(name, getattr(pack, name)) for name in COLUMNS}
    write_container(path, msgspec.json.encode(pack.header), columns)


def load_pack(path: Path) -> StepPack:
    """Read what ``save_pack`` wrote; raises PackError that says what is wrong with any other file."""
    raw, stored = read_container(path)
    header = _header(path, raw)
    missing = [name for name in COLUMNS if name not in stored]
    if missing:
        raise PackError(f"{path}: lacks the column {missing[0]}")
    columns: dict[str, Any] = {name: _decoded(name, stored[name]) for name in COLUMNS}
    try:
        return StepPack(header, **columns)
    except PackError as error:
        raise PackError(f"{path}: {error}") from error


def _header(path: Path, raw: bytes) -> PackHeader:
    try:
        found = msgspec.json.decode(raw, type=dict[str, object]).get("version")
        if found != PACK_VERSION:
            raise PackError(f"{path}: is of version {found!r}; this program reads version {PACK_VERSION}")
        return msgspec.json.decode(raw, type=PackHeader)
    except msgspec.DecodeError as error:
        raise PackError(f"{path}: its header is not a pack's ({error})") from error


def _encoded(name: str, values: Floats | Integers) -> Integers:
    if name in _COUNTS:
        return np.diff(values.astype(np.int64), prepend=0) if name == "step" else values.astype(np.int64)
    absent = np.isnan(values)
    ticks = np.where(absent, _NO_TIME, np.rint(np.where(absent, 0.0, values) * _TICKS_PER_S)).astype(np.int64)
    # Differences are small, and small numbers compress well.
    return np.diff(ticks, prepend=0) if name in _TIMES else ticks


def _decoded(name: str, stored: Integers) -> Floats | Integers:
    if name in _COUNTS:
        return np.cumsum(stored) if name == "step" else stored
    ticks = np.cumsum(stored) if name in _TIMES else stored
    return np.where(ticks == _NO_TIME, np.nan, ticks / _TICKS_PER_S)


def _same(recorded: object, wanted: object) -> bool:
    if isinstance(recorded, ModelDimensions) and isinstance(wanted, ModelDimensions):
        return not _other_sizes(recorded, wanted)
    # Both widths of 16 bits take the same time, and CPUs often run one for the other.
    return _SIXTEEN_BITS.get(str(recorded), recorded) == _SIXTEEN_BITS.get(str(wanted), wanted)


def _difference(recorded: object, wanted: object) -> str:
    if isinstance(recorded, ModelDimensions) and isinstance(wanted, ModelDimensions):
        return ", ".join(
            f"{name} recorded {getattr(recorded, name)}, here {getattr(wanted, name)}"
            for name in _other_sizes(recorded, wanted)
        )
    return f"recorded {recorded}, here {wanted}"


def _other_sizes(recorded: ModelDimensions, wanted: ModelDimensions) -> list[str]:
    """Names of the sizes that differ; 0 was not told and differs from nothing."""
    pairs = {
        each.name: (getattr(recorded, each.name), getattr(wanted, each.name)) for each in fields(recorded)
    }
    return [name for name, (first, second) in pairs.items() if first and second and first != second]

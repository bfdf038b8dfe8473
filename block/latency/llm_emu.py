"""Reads the profile packs of LLM-Emu (arXiv 2605.00616), JSON version 2.0.

Such a pack has raw step times in microseconds by total tokens (``tt``) and a bucket of concurrent requests
(``conc``, the bucket's middle), for steps with new requests ("prefill") and for all others ("decode"). The
second chunk of a long prompt, or of one that was preempted, is none of a new request and lies among the
latter: more tokens than the bucket can have requests tell it. Times span whole cycles of the engine, its own
time included, and say nothing of context or order: an imported pack has context 0 everywhere, so its model
has no context axis, and every deeper shape counts as not covered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from block.errors import PackError
from block.latency.dimensions import ModelDimensions
from block.latency.pack import PackHeader, StepPack
from block.latency.pack_builder import pack_of_steps
from block.types import BatchShape, EngineLimits

VERSION = "2.0"
MOST_TOKENS = 2**31
MOST_MICROSECONDS = 3600e6
"""What has more tokens, or takes longer, was no step."""
_NOTES = "imported from an LLM-Emu pack: whole engine cycles, no context, batch composition inferred"


Count = Annotated[int, msgspec.Meta(ge=0)]
Width = Annotated[int, msgspec.Meta(ge=1)]


class _Cell(msgspec.Struct):
    tt: int
    conc: int
    samples: list[float]


class _Buckets(msgspec.Struct):
    """A value lies in the bucket ``value // width``, which goes by its middle."""

    tt_bucket_width: Width = 1
    conc_bucket_width: Width = 5

    def fewest_tokens(self, tt: int) -> int:
        """That a step of a cell can have had."""
        return tt - self.tt_bucket_width // 2

    def most_requests(self, conc: int) -> int:
        """The same of its requests, from above."""
        return conc + (self.conc_bucket_width - 1) // 2


class _Gpu(msgspec.Struct):
    gpu_name: str = ""
    gpu_count: int = 1


class _Model(msgspec.Struct):
    num_hidden_layers: int = 0
    hidden_size: int = 0
    num_attention_heads: int = 0
    num_key_value_heads: int = 0
    head_dim: int = 0
    intermediate_size: int = 0
    vocab_size: int = 0
    max_model_len: Count = 0
    block_size: Count = 0
    gpu: _Gpu = msgspec.field(default_factory=_Gpu)


class _File(msgspec.Struct):
    version: str
    gpu_model: str = ""
    model_name: str = ""
    profile_type: str = ""
    bucketing: _Buckets = msgspec.field(default_factory=_Buckets)
    decode_2d_distribution: list[_Cell] = []
    prefill_2d_distribution: list[_Cell] = []
    step_cycle_2d_distribution: list[_Cell] = []
    """Both kinds together, in older packs that do not tell them apart."""
    model_config: _Model = msgspec.field(default_factory=_Model)


def import_llm_emu(path: Path, created_at: str = "") -> StepPack:
    """A pack with a row per sample; raises PackError that names what the file lacks."""
    file = _read(path)
    steps = list(_steps(path, file))
    if not steps:
        raise PackError(f"{path}: has no samples in decode_, prefill_ or step_cycle_2d_distribution")
    return pack_of_steps(_header(file, [shape for shape, _ in steps], created_at), steps)


def _read(path: Path) -> _File:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise PackError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise PackError(f"{path}: is no LLM-Emu pack ({error})") from error
    if file.version != VERSION:
        raise PackError(f"{path}: version = {file.version!r}: only {VERSION!r} can be imported")
    return file


def _steps(path: Path, file: _File) -> Iterator[tuple[BatchShape, float]]:
    older = not (file.decode_2d_distribution or file.prefill_2d_distribution)
    for cells, has_new in (
        (file.decode_2d_distribution, False),
        (file.prefill_2d_distribution, True),
        (file.step_cycle_2d_distribution if older else (), False),
    ):
        for cell in cells:
            if cell.tt > MOST_TOKENS or any(each > MOST_MICROSECONDS for each in cell.samples):
                raise PackError(f"{path}: tt = {cell.tt}, conc = {cell.conc}: more than any step can be")
        yield from _of_cells(cells, file.bucketing, has_new=has_new)


def _of_cells(
    cells: Iterable[_Cell], buckets: _Buckets, *, has_new: bool
) -> Iterator[tuple[BatchShape, float]]:
    for cell in cells:
        if cell.tt < 1:
            continue
        prompt = has_new or buckets.fewest_tokens(cell.tt) > buckets.most_requests(cell.conc)
        decodes = max(0, min(cell.conc - 1, cell.tt - 2)) if prompt else cell.tt
        shape = BatchShape(cell.tt - decodes, decodes, 0, 0, decodes + prompt)
        yield from ((shape, microseconds / 1e6) for microseconds in cell.samples if microseconds > 0)


def _header(file: _File, shapes: list[BatchShape], created_at: str) -> PackHeader:
    told = file.model_config
    model = ModelDimensions(
        layers=told.num_hidden_layers,
        hidden=told.hidden_size,
        heads=told.num_attention_heads,
        kv_heads=told.num_key_value_heads,
        head_size=told.head_dim,
        intermediate=told.intermediate_size,
        vocabulary=told.vocab_size,
    )
    return PackHeader(
        model=model if told.num_hidden_layers else None,
        limits=EngineLimits(
            block_size=told.block_size,
            total_blocks=0,
            max_num_seqs=max(shape.requests for shape in shapes),
            max_num_batched_tokens=max(shape.tokens for shape in shapes),
            max_model_len=told.max_model_len,
            # Whole cycles: the engine's own time must not be added again.
            async_scheduling=True,
        ),
        kv_blocks=0,
        model_name=file.model_name,
        tensor_parallel=told.gpu.gpu_count,
        device=told.gpu.gpu_name or file.gpu_model,
        executor=file.profile_type,
        created_at=created_at,
        notes=_NOTES,
    )

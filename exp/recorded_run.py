"""A recorded run of a real vLLM: its engine's flags, and when each request was where.

meta.json        engine_kwargs, model, vllm_version; newer ones the KV cache's size too
requests.jsonl   request_id, input_toks, output_toks, queued_ts, scheduled_ts, first_token_ts,
                 last_token_ts: seconds of one monotonic clock
config.json      (optional) the hardware as its recorders describe it, the link between devices included
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from block.config import SettingsT
from block.errors import ConfigError
from block.settings import Settings
from block.simulation.engine import SimulatedRequest
from block.types import EngineLimits
from vidur_adapter.llmservingsim import Link

_ANY_LENGTH = 131_072
_BLOCK_SIZE = 16


_NOT_FOLLOWED: Mapping[str, tuple[object, ...]] = {
    "pipeline_parallel_size": (1, None),
    "decode_context_parallel_size": (1, None),
    "enable_chunked_prefill": (True, None),
    "long_prefill_token_threshold": (0, None),
    "max_num_partial_prefills": (1, None),
    "scheduling_policy": ("fcfs", None),
    "speculative_config": (None,),
    "enable_lora": (False, None),
    "kv_cache_dtype": ("auto", "bfloat16", "float16", None),
    "quantization": (None,),
    "dtype": ("bfloat16", "float16", "auto", None),
}
"""Flags that the simulation or the profiles know only one way of, and the values that mean it."""


class EngineFlags(Settings, extra="allow"):
    """``engine_kwargs``; defaults are vLLM's."""

    tensor_parallel_size: int = Field(1, ge=1)
    data_parallel_size: int = Field(1, ge=1)
    max_num_seqs: int = Field(256, ge=1)
    max_num_batched_tokens: int = Field(2048, ge=1)
    max_model_len: int | None = Field(None, ge=1)
    enable_prefix_caching: bool = True
    async_scheduling: bool | None = None
    enforce_eager: bool = False
    block_size: int | None = Field(None, ge=1)
    num_gpu_blocks_override: int | None = Field(None, ge=2)

    @model_validator(mode="after")
    def _only_what_is_followed(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            known = _NOT_FOLLOWED.get(name, (value,))
            if value not in known:
                raise ValueError(
                    f"{name} = {value!r}: not simulated; only runs with {known[0]!r} can be judged"
                )
        return self


class CacheFacts(Settings, extra="ignore"):
    """``kv_cache``."""

    num_gpu_blocks: int | None = Field(None, ge=2)
    block_size: int | None = Field(None, ge=1)


class RunMeta(Settings, extra="ignore"):
    """``meta.json``."""

    model: str
    vllm_version: str = "unknown"
    engine_kwargs: EngineFlags
    kv_cache: CacheFacts = Field(default_factory=lambda: CacheFacts.model_validate({}))


class RecordedRequest(Settings, extra="ignore"):
    """A line of ``requests.jsonl``."""

    request_id: str
    input_toks: int = Field(ge=1)
    output_toks: int = Field(ge=1)
    queued_ts: float
    scheduled_ts: float
    first_token_ts: float
    last_token_ts: float

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        times = (self.queued_ts, self.scheduled_ts, self.first_token_ts, self.last_token_ts)
        if list(times) != sorted(times):
            raise ValueError("queued_ts, scheduled_ts, first_token_ts and last_token_ts must not fall")
        return self


class SentPrompt(Settings, extra="ignore"):
    """A line of a workload."""

    input_tok_ids: list[int] = Field(min_length=1)


@dataclass(frozen=True)
class RecordedRun:
    """One folder."""

    folder: Path
    meta: RunMeta
    requests: tuple[RecordedRequest, ...]
    """In the order of their arrival."""
    link: Link | None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises ConfigError that names file, field and remedy."""
        meta = _parse(folder / "meta.json", RunMeta, _read(folder / "meta.json"))
        path = folder / "requests.jsonl"
        lines = [
            _parse(f"{path}:{place}", RecordedRequest, line)
            for place, line in enumerate(_read(path).splitlines(), 1)
            if line.strip()
        ]
        if not lines:
            raise ConfigError(f"{path}: no requests; was the run cut short?")
        twice = next((name for name, n in Counter(line.request_id for line in lines).items() if n > 1), None)
        if twice is not None:
            raise ConfigError(f"{path}: request_id {twice!r} comes twice; leave one of its lines out")
        return cls(folder, meta, tuple(sorted(lines, key=lambda line: line.queued_ts)), _link(folder))

    @property
    def block_size(self) -> int:
        """Tokens per KV block."""
        meta = self.meta
        return meta.kv_cache.block_size or meta.engine_kwargs.block_size or _BLOCK_SIZE

    @property
    def start_s(self) -> float:
        """Of the first arrival, on the run's clock."""
        return self.requests[0].queued_ts

    def limits(self, blocks: int | None = None) -> EngineLimits:
        """The engine's; without a number of blocks anywhere, as many as all seats could ever need."""
        flags, size = self.meta.engine_kwargs, self.block_size
        longest = max(request.input_toks + request.output_toks for request in self.requests)
        enough = flags.max_num_seqs * (longest // size + 2)
        told = blocks or flags.num_gpu_blocks_override or self.meta.kv_cache.num_gpu_blocks
        return EngineLimits(
            block_size=size,
            total_blocks=(told or enough + 1) - 1,
            max_num_seqs=flags.max_num_seqs,
            max_num_batched_tokens=flags.max_num_batched_tokens,
            max_model_len=flags.max_model_len or _ANY_LENGTH,
            prefix_caching=flags.enable_prefix_caching,
            async_scheduling=flags.async_scheduling is not False,
        )

    def arrivals(self, workload: Path | None) -> list[SimulatedRequest]:
        """As the simulation takes them; a workload's token ids tell which prompts begin alike."""
        hashes = _block_hashes(workload, self) if workload else {}
        return [
            SimulatedRequest(
                id=request.request_id,
                arrival_s=request.queued_ts - self.start_s,
                prompt_tokens=request.input_toks,
                output_tokens=request.output_toks,
                block_hashes=hashes.get(request.request_id, ()),
            )
            for request in self.requests
        ]

    def times(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """(requests, 4): queued, scheduled, first and last token, seconds from the first arrival."""
        return (
            np.array(
                [
                    (each.queued_ts, each.scheduled_ts, each.first_token_ts, each.last_token_ts)
                    for each in self.requests
                ]
            )
            - self.start_s
        )


def _block_hashes(workload: Path, run: RecordedRun) -> dict[str, tuple[int, ...]]:
    """By request: line n is request n, as its name ends."""
    lines = _token_lines(workload)
    found = {}
    for request in run.requests:
        place = request.request_id.rpartition("-")[2]
        if not place.isdecimal():
            raise ConfigError(
                f"{run.folder / 'requests.jsonl'}: request_id {request.request_id!r} does not end in the "
                "number of its line in the workload; leave --workload out"
            )
        if int(place) >= len(lines):
            raise ConfigError(f"{workload}: has {len(lines)} lines, none for {request.request_id}")
        tokens = lines[int(place)]
        if len(tokens) != request.input_toks:
            raise ConfigError(
                f"{workload}:{int(place) + 1}: has {len(tokens)} tokens, {request.request_id} had "
                f"{request.input_toks}; name the workload that was sent"
            )
        found[request.request_id] = _chain(tokens, run.block_size)
    return found


def _chain(tokens: list[int], size: int) -> tuple[int, ...]:
    whole = len(tokens) // size * size
    return tuple(hash(tuple(tokens[first : first + size])) for first in range(0, whole, size))


def _token_lines(path: Path) -> list[list[int]]:
    lines = enumerate(_read(path).splitlines(), 1)
    return [_parse(f"{path}:{place}", SentPrompt, line).input_tok_ids for place, line in lines]


def _link(folder: Path) -> Link | None:
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        raw = json.loads(_read(path))
        return Link(float(raw["link_bw"]), float(raw["link_latency"]) / 1e9)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: no link_bw (GB/s) and link_latency (ns) ({error})") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _parse(source: Path | str, kind: type[SettingsT], text: str) -> SettingsT:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        item = error.errors()[0]
        field = ".".join(map(str, item["loc"])) or "content"
        raise ConfigError(f"{source}: {field}: {item['msg'].removeprefix('Value error, ')}") from error

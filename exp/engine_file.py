"""The engine that ``block-exp simulate`` is given: a YAML or JSON file of limits and a linear clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field

from block.config import parse_config
from block.errors import ConfigError
from block.latency.base import KernelLatency
from block.once import GivenTwiceError, OnceLoader, fields_once
from block.settings import Settings
from block.types import EngineLimits, SchedulingPolicy

_FAR_TOKENS = 2.0**500
"""Where the clock's second knot lies: so far out that its rise per token is exactly ``per_token_s``."""


def _number(value: Any) -> Any:
    """Refuse true and false; read 1e-5, which YAML takes for a text."""
    if isinstance(value, bool):
        raise ValueError("must be a number of seconds")
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError("must be a number of seconds") from error


Count = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
Flag = Annotated[bool, Field(strict=True)]
Cost = Annotated[float, BeforeValidator(_number), Field(ge=0, le=86_400, allow_inf_nan=False)]


class EngineFile(Settings):
    """The file's fields. Names of limits follow vLLM's."""

    num_blocks: Annotated[int, Field(strict=True, ge=2, le=10_000_000)] = Field(
        description="KV blocks as vLLM's num_gpu_blocks counts them: its null block is one of them."
    )
    block_size: Count = Field(description="Tokens per KV block.")
    max_num_seqs: Count = Field(description="Most requests in one batch.")
    max_num_batched_tokens: Count = Field(description="Token budget of one step.")
    max_model_len: Count = Field(description="Most tokens of prompt and response together.")
    prefix_caching: Flag = Field(description="Reuse KV blocks of equal prompt prefixes.")
    policy: SchedulingPolicy = Field(description="vLLM's queue order.")
    base_s: Cost = Field(description="Seconds of a step, however small.")
    per_token_s: Cost = Field(description="Seconds per scheduled token.")
    per_context_token_s: Cost = Field(
        description="Seconds per computed token of the scheduled requests, this step's included."
    )
    async_scheduling: Flag = Field(False, description="Schedule the next step while the current one runs.")

    @classmethod
    def load(cls, path: Path) -> EngineFile:
        """Read the file; raises ConfigError that names file, field, value and remedy."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
        raw = _parse(path, text)
        if not isinstance(raw, dict):
            raise ConfigError(f"{path}: must be a mapping of settings, found {type(raw).__name__}")
        engine = parse_config({str(key): value for key, value in raw.items()}, cls, str(path))
        if engine.max_num_seqs > engine.max_num_batched_tokens:
            raise ConfigError(
                f"{path}: max_num_seqs = {engine.max_num_seqs}: exceeds max_num_batched_tokens = "
                f"{engine.max_num_batched_tokens}, which vLLM refuses; lower it"
            )
        return engine

    @property
    def limits(self) -> EngineLimits:
        """In the simulation's terms."""
        return EngineLimits(
            block_size=self.block_size,
            total_blocks=self.num_blocks - 1,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            prefix_caching=self.prefix_caching,
            policy=self.policy,
            async_scheduling=self.async_scheduling,
        )

    @property
    def latency(self) -> KernelLatency:
        """base_s + tokens * per_token_s + context * per_context_token_s, to the last bit."""
        return KernelLatency(
            token_knots=(0.0, _FAR_TOKENS),
            token_seconds=(self.base_s, self.base_s + self.per_token_s * _FAR_TOKENS),
            per_context_token_s=self.per_context_token_s,
        )


def _parse(path: Path, text: str) -> Any:
    """JSON if it is, else YAML: JSON indented with tabs is no YAML."""
    try:
        return json.loads(text, object_pairs_hook=fields_once)
    except GivenTwiceError as error:
        raise ConfigError(f"{path}: {error}; leave one of them") from error
    except (ValueError, RecursionError):
        pass
    try:
        return yaml.load(text, OnceLoader)
    except (yaml.YAMLError, RecursionError) as error:
        place = " ".join(str(error).split())
        raise ConfigError(f"{path}: neither JSON nor YAML ({place}); mend the syntax") from error

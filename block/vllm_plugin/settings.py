"""What vLLM's ``--additional-config`` carries for this package.

{"block": {"feed": {"address": "ipc://run/engine-0.feed"},
           "emulation": {"latency": "config/latency/a30-llama-2-7b.yaml", "seed": 0},
           "record": {"journal": "run/engine-0.journal"}}}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from block.config import parse_config
from block.errors import ConfigError, StateError
from block.lengths import LengthDistribution
from block.settings import Settings

SOURCE = "--additional-config"


class FeedSettings(Settings):
    """Where the engine publishes its state."""

    address: str = Field(pattern=r"^(ipc|tcp)://.+", description="ZMQ address that the engine binds.")


def _as_distribution(quantiles: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    try:
        if quantiles:
            LengthDistribution(quantiles)
    except StateError as error:
        raise PydanticCustomError("quantiles", "{why}", {"why": str(error)}) from error
    return quantiles


class EmulationSettings(Settings):
    """What the emulated executor imitates."""

    latency: Path = Field(description="A pack, whose steps are sampled, or a step-latency model file.")
    kv_blocks: int | None = Field(
        None,
        ge=2,
        description="KV blocks, without --num-gpu-blocks-override; None takes the pack's or the GPU's.",
    )
    gpu: Path | None = Field(
        None, description="A file of config/gpus, whose memory gives the KV blocks if nothing else does."
    )
    seed: int | None = Field(
        None,
        ge=0,
        description="Seed of synthetic tokens, lengths and step times. None gives the tokens and lengths of"
        " seed 0 and draws step times anew each time, so that no two engines are slow together.",
    )
    steady: bool = Field(
        False, description="Every step of a pack takes its shape's mean, without the ups and downs recorded."
    )
    allow: tuple[str, ...] = Field(
        (), description="Differences between pack and engine to accept, by the names that the refusal gives."
    )
    output_lengths: Annotated[tuple[tuple[float, float], ...], AfterValidator(_as_distribution)] = Field(
        (),
        description="Quantiles (probability, tokens) from which requests that carry no recorded length draw"
        " theirs, by prompt and seed; without, they run to max_tokens.",
    )


class RecordSettings(Settings):
    """Where a recording executor writes."""

    journal: Path = Field(description="Journal file; gone on with if it is there and of the same engine.")
    notes: str = Field("", max_length=1000, description="A remark for the pack made from it.")


class PluginSettings(Settings):
    """The ``block`` entry of ``--additional-config``."""

    feed: FeedSettings | None = Field(None, description="The state feed; None publishes nothing.")
    emulation: EmulationSettings | None = Field(None, description="For the emulated executor.")
    record: RecordSettings | None = Field(None, description="For the recording executors.")


def plugin_settings(additional_config: Any) -> PluginSettings:
    """Parse vLLM's ``vllm_config.additional_config``; raises ConfigError that names the field."""
    raw = additional_config.get("block", {}) if isinstance(additional_config, dict) else {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{SOURCE}: block = {raw!r}: must be an object of settings")
    return parse_config(raw, PluginSettings, f"{SOURCE}: block")

"""Where the emulated executor has its step times from: samples or means of a pack, or a model's mean.

A pack is refused if it was recorded on another engine than the one that is being emulated.
"""

from __future__ import annotations

import secrets
from typing import Protocol

import numpy as np
from vllm.config import VllmConfig
from vllm.logger import init_logger

from block.errors import ConfigError, PackError
from block.latency.base import StepLatencyModel
from block.latency.load import load_latency
from block.latency.oracle import FEWEST_STEPS, StepOracle
from block.latency.pack import StepPack
from block.latency.pack_latency import PackLatency
from block.latency.roofline import Gpu, RooflineLatency
from block.types import BatchShape
from block.vllm_plugin.pack_header import pack_use
from block.vllm_plugin.settings import EmulationSettings

logger = init_logger("vllm.block.step_times")


class StepTimes(Protocol):
    """Seconds for each step, in the order in which they run."""

    name: str
    uncovered: int
    """Steps so far that were unlike anything the times were made from."""
    kv_blocks: int
    """KV blocks of the engine that was recorded, null block included; 0 if unknown."""
    gpu: Gpu | None
    """The device, if the times were worked out from one."""

    def seconds(self, shape: BatchShape) -> float:
        """Of the next step."""
        ...

    def host_seconds(self, shape: BatchShape) -> float | None:
        """Of the engine's own work before it, if it follows another without overlap; None if not told."""
        ...


class ModelledTimes:
    """Always the mean."""

    def __init__(self, latency: StepLatencyModel) -> None:
        self._latency = latency
        self.name = latency.version
        self.uncovered = 0
        self.kv_blocks = 0
        self.gpu = latency.gpu if isinstance(latency, RooflineLatency) else None

    def seconds(self, shape: BatchShape) -> float:
        """Of the next step."""
        self.uncovered += not self._latency.covers(shape)
        return self._latency.seconds(shape)

    def host_seconds(self, shape: BatchShape) -> float | None:  # noqa: ARG002 - the protocol's
        """Not told."""
        return None


class PackTimes:
    """Of a pack: samples, as spread and as sluggish as the recorded steps, or steadily their mean."""

    def __init__(
        self, name: str, oracle: StepOracle, host: StepOracle | None, kv_blocks: int, *, steady: bool
    ) -> None:
        self._ask = oracle.mean if steady else oracle.sample
        self._host = host
        self.name = name
        self.uncovered = 0
        self.kv_blocks = kv_blocks
        self.gpu: Gpu | None = None

    def seconds(self, shape: BatchShape) -> float:
        """Of the next step."""
        answer = self._ask(shape)
        self.uncovered += not answer.covered
        return answer.seconds

    def host_seconds(self, shape: BatchShape) -> float | None:
        """The mean: the host that emulates has ups and downs of its own."""
        return None if self._host is None else self._host.mean(shape).seconds


def load_step_times(settings: EmulationSettings, config: VllmConfig) -> StepTimes:
    """Read the settings' latency file; raises ConfigError, or PackError (another engine's, too short)."""
    latency = load_latency(settings.latency)
    if isinstance(latency, PackLatency):
        try:
            return _of_pack(latency, settings, config)
        except PackError as error:
            raise PackError(f"{settings.latency}: {error}") from error
    if settings.allow:
        raise ConfigError(f"block.emulation.allow: {settings.latency} is no pack, and has nothing to allow")
    return ModelledTimes(latency)


def _of_pack(latency: PackLatency, settings: EmulationSettings, config: VllmConfig) -> StepTimes:
    pack = latency.pack
    blocks = config.cache_config.num_gpu_blocks_override or settings.kv_blocks or pack.header.kv_blocks
    for doubt in pack.check_use(pack_use(config, blocks), settings.allow):
        logger.warning("%s: %s", settings.latency, doubt)
    asked = "Taking the mean of" if settings.steady else "Sampling"
    device, seed = pack.header.device or "?", _step_seed(settings)
    logger.info("%s %d %s steps of %s, seed %d", asked, len(pack), pack.header.source, device, seed)
    oracle, host = StepOracle(pack, seed), _host_oracle(pack)
    return PackTimes(latency.version, oracle, host, pack.header.kv_blocks, steady=settings.steady)


def _host_oracle(pack: StepPack) -> StepOracle | None:
    """None where it hid behind the steps: what was told then are the exceptions."""
    told = 0 if pack.header.async_scheduling else int(np.count_nonzero(pack.host_s > 0))
    return StepOracle(pack, 0, "host") if told >= FEWEST_STEPS else None


def _step_seed(settings: EmulationSettings) -> int:
    return secrets.randbits(32) if settings.seed is None else settings.seed

"""Operators that a profile lacks, from datasheets: marked as assumed wherever they are used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from block.latency.least_squares import Floats
from block.latency.roofline import Efficiency, Gpu
from vidur_adapter.operator import Timings

EFFICIENCY = Efficiency.model_validate({})
LAUNCH_S = 3e-6
"""Least duration of a small kernel."""


@dataclass(frozen=True, slots=True)
class RooflineProduct:
    """A matrix product with weights of (inputs, outputs); its shape is a number of rows."""

    name: str
    gpu: Gpu
    inputs: int
    outputs: float
    value_bytes: float = 2.0
    axes: tuple[str, ...] = ("rows",)

    def time(self, shapes: Floats) -> Timings:
        """Reading the weights or computing with them, whichever takes longer."""
        weights = self.inputs * self.outputs
        reading = weights * self.value_bytes / (self.gpu.memory_bandwidth_gb_s * 1e9)
        computing = 2 * weights * shapes[:, 0] / (self.gpu.dense_tflops * 1e12 * EFFICIENCY.compute)
        seconds = np.maximum(reading / EFFICIENCY.weights_bandwidth, computing) + LAUNCH_S
        return Timings.assumed(seconds)


@dataclass(frozen=True, slots=True)
class Streaming:
    """Kernels that read and write some bytes per row and compute next to nothing."""

    name: str
    gpu: Gpu
    bytes_per_row: float
    kernels: int = 1
    axes: tuple[str, ...] = ("rows",)

    def time(self, shapes: Floats) -> Timings:
        """Bytes through memory, and a launch per kernel."""
        per_byte = 1 / (self.gpu.memory_bandwidth_gb_s * 1e9 * EFFICIENCY.weights_bandwidth)
        seconds = shapes[:, 0] * self.bytes_per_row * per_byte + self.kernels * LAUNCH_S
        return Timings.assumed(seconds)


@dataclass(frozen=True, slots=True)
class LinkAllReduce:
    """An all-reduce over a link that only a bandwidth and a latency are known of; its shape is bytes.

    Two devices send each other everything at once, as vLLM's own all-reduce does; more form a ring of
    2 (n - 1) hops of an n-th each.
    """

    devices: int
    link_gb_s: float
    link_latency_s: float
    name: str = "all_reduce"
    axes: tuple[str, ...] = ("bytes",)

    def time(self, shapes: Floats) -> Timings:
        """Bytes through the link, and its latency per hop."""
        hops, share = (1, 1.0) if self.devices == 2 else (2 * (self.devices - 1), 1 / self.devices)
        per_hop = shapes[:, 0] * share / (self.link_gb_s * 1e9) + self.link_latency_s
        return Timings.assumed(hops * per_hop)

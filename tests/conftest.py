"""Shared by all tests: the optional data folder and a small latency model."""

from __future__ import annotations

from pathlib import Path

import pytest

from block.latency.base import KernelLatency

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def latency() -> KernelLatency:
    """Every term is present, so that a wrong batch shape shows in the times."""
    return KernelLatency((0.0, 64.0, 1000.0), (0.02, 0.025, 0.12), 1e-6, 3e-9, 2e-5)

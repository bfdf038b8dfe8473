"""Shared by all tests: model folders, a real emulated vLLM server and a small latency model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import write_certificate
from engine_server import EngineServer, emulated_server
from hypothesis import settings

from block.latency.base import KernelLatency
from exp.local_model import make_local_model

ROOT = Path(__file__).parent.parent

# A property is no slower for what else the machine does; pytest's timeout ends what hangs.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")


@pytest.fixture(scope="session")
def latency() -> KernelLatency:
    """Every term is present, so that a wrong batch shape shows in the times."""
    return KernelLatency((0.0, 64.0, 1000.0), (0.02, 0.025, 0.12), 1e-6, 3e-9, 2e-5)


@pytest.fixture(scope="session")
def llama_model() -> Path:
    """Llama-2-7B's dimensions and a tokenizer, without weights."""
    return make_local_model("llama-2-7b", ROOT / ".cache" / "models" / "llama-2-7b")


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A Llama small enough to compute for real on a CPU."""
    return make_local_model("tiny-llama", ROOT / ".cache" / "models" / "tiny-llama")


@pytest.fixture(scope="session")
def vllm_server(llama_model: Path) -> Iterator[EngineServer]:
    """One emulated vLLM server for all tests that can share it."""
    with emulated_server(llama_model) as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a self-signed certificate for this machine, and its key."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    write_certificate(path)
    return path

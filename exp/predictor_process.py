"""A predictor in a process of its own, following one feed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from block.errors import ConfigError
from exp.free_port import free_port

READY_S = 120.0
"""Many start at once, and the first may have to compile."""


@dataclass(frozen=True, slots=True)
class RunningPredictor:
    """One that was started; see ``until_ready``."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def until_ready(self) -> None:
        """Wait until it follows its feed. Raises ConfigError if it does not come up."""
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        said = self.log.read_text(errors="replace")[-2000:]
        raise ConfigError(f"predictor at {self.url}: does not come up; it said: {said}")


@contextmanager
def running_predictor(instance: str, feed: str, latency: Path, folder: Path) -> Iterator[RunningPredictor]:
    """Start one; it ends with the context."""
    port = free_port()
    config = {"instance": instance, "feed": feed, "latency": str(latency), "port": port}
    path, log = folder / f"{instance}.yaml", folder / f"{instance}.log"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    argv = [sys.executable, "-m", "predictor.cli", "--config", str(path)]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        yield RunningPredictor(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

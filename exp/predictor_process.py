"""Predictors in processes of their own, or several in one, each following one feed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
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
def running_together(
    feeds: Mapping[str, str], latency: Path, folder: Path
) -> Iterator[list[RunningPredictor]]:
    """Start one for each instance of ``feeds``, all in one process and on one port; they end with the
    context.
    """
    argv, port = [sys.executable, "-m", "predictor.cli"], free_port()
    urls: list[str] = []
    for instance, feed in feeds.items():
        path = folder / f"{instance}.yaml"
        config = {"instance": instance, "feed": feed, "latency": str(latency), "port": port}
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        argv += ["--config", str(path)]
        urls.append(f"http://127.0.0.1:{port}" + (f"/of/{instance}" if len(feeds) > 1 else ""))
    log = folder / f"{next(iter(feeds))}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        yield [RunningPredictor(url, process, log) for url in urls]
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

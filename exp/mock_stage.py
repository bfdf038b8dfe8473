"""A stage whose engines are mocks with a state feed, and all else is real.

Before each engine and each predictor stands a proxy that can do harm.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Self

import yaml

from exp.failure_stage import Part, Parts, Stage
from exp.fault_proxy import FaultProxy
from exp.free_port import free_port

CHUNKS = 16
TICK_S = 0.02
_LATENCY = Path(__file__).resolve().parent.parent / "config" / "latency" / "a30-llama-2-7b.yaml"
SETTINGS: dict[str, Any] = {
    "policy": "block",
    "probe_deadline_s": 0.1,
    "health_interval_s": 0.5,
    "health_timeout_s": 1.0,
    "suspect_after_s": 0.3,
    "silence_timeout_s": 1.0,
    "whole_silence_timeout_s": 2.0,
    "breaker": {"failures_in_a_row": 3, "first_pause_s": 0.5, "longest_pause_s": 2.0},
    "shutdown_grace_s": 2.0,
}
"""A part of the defaults' patience, so that a fault of seconds shows what one of minutes does."""


class MockStage(Stage):
    """The parts, and the proxies between them."""

    def __init__(self, folder: Path, instances: int, workers: int) -> None:
        """``folder``: for configurations and logs."""
        self._folder = folder
        numbers = range(instances)
        self._engine_ports = [free_port() for _ in numbers]
        predictor_ports = [free_port() for _ in numbers]
        self.engine_proxies = [FaultProxy(free_port(), port) for port in self._engine_ports]
        self.predictor_proxies = [FaultProxy(free_port(), port) for port in predictor_ports]
        feeds = [f"tcp://127.0.0.1:{free_port()}" for _ in numbers]
        port = free_port()
        parts = Parts(
            [self._engine(number, feeds[number]) for number in numbers],
            [self._predictor(number, feeds[number], predictor_ports[number]) for number in numbers],
            self._scheduler(port, workers),
        )
        super().__init__(parts, port, predictor_ports, workers)

    async def __aenter__(self) -> Self:
        for proxy in (*self.engine_proxies, *self.predictor_proxies):
            await proxy.start()
        return await super().__aenter__()

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        for proxy in (*self.engine_proxies, *self.predictor_proxies):
            await proxy.stop()

    async def tell_engine(self, number: int, order: str) -> None:
        """``garble`` or ``heal`` its feed."""
        await self.http.post(f"http://127.0.0.1:{self._engine_ports[number]}/feed/{order}")

    def _engine(self, number: int, feed: str) -> Part:
        name = f"engine-{number}"
        port = str(self._engine_ports[number])
        return self._part(name, "exp.fed_engine", name, port, feed, str(CHUNKS), str(TICK_S))

    def _predictor(self, number: int, feed: str, port: int) -> Part:
        config = {
            "instance": f"engine-{number}",
            "feed": feed,
            "latency": str(_LATENCY),
            "port": port,
            "settings": {"stale_after_s": 1.0},
        }
        return self._service("predictor", f"predictor-{number}", config)

    def _scheduler(self, port: int, workers: int) -> Part:
        proxies = zip(self.engine_proxies, self.predictor_proxies, strict=True)
        instances = [
            {"name": f"engine-{number}", "url": engine.url, "predictor_url": predictor.url}
            for number, (engine, predictor) in enumerate(proxies)
        ]
        config = {"instances": instances, "port": port, "settings": SETTINGS | {"workers": workers}}
        return self._service("global_scheduler", "scheduler", config)

    def _service(self, package: str, name: str, config: dict[str, Any]) -> Part:
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return self._part(name, f"{package}.cli", "--config", str(path))

    def _part(self, name: str, module: str, *arguments: str) -> Part:
        return Part(name, (sys.executable, "-m", module, *arguments), self._folder / f"{name}.log")

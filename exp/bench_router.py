"""What a router costs and adds: CPU of its process tree per request and per chunk, and latency.

Mock instances, the router and the load each run in processes of their own on this machine. Routers are
measured in alternating rounds and compared by medians, beside the same load without any router.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.table import Table

from exp import mock_engine
from exp.router_load import Tally, chat_request, load
from exp.router_process import RouterCommand, RunningRouter, running

CHUNKS = 64
TICK_S = 0.02
INSTANCES = 2
CONNECTIONS = 32
CALM_CONNECTIONS, CALM_PAUSE_S = 4, 0.02
"""Latency is measured far from saturation: at most 200 requests a second."""
PROMPT_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one router; of the mock alone, the costs are zero."""

    cpu_request_ms: float
    cpu_chunk_ms: float
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    ttft_ms: float
    errors: int


class RouterBench:
    """The measurement; ``run`` it once."""

    def __init__(self, peers: Sequence[str], rounds: int, requests: int, streams: int) -> None:
        """``peers``: command lines. Raises ConfigError for one without its placeholders."""
        self._ours = [RouterCommand.ours("round_robin"), RouterCommand.ours("block")]
        self._peers = [RouterCommand.peer(template) for template in peers]
        self._rounds = rounds
        self._requests = requests
        self._streams = streams
        self._samples: dict[str, list[Sample]] = {}

    def run(self) -> None:
        """Measure. Raises ConfigError if a router does not come up."""
        with _mocks() as urls, tempfile.TemporaryDirectory() as folder:
            for _ in range(self._rounds):
                self._note("no router", uvloop.run(self._round(None, urls[0])))
                for command in (*self._ours, *self._peers):
                    with running(command, urls, Path(folder)) as router:
                        self._note(command.name, uvloop.run(self._round(router, router.url)))

    def table(self) -> Table:
        """Medians and ranges."""
        table = Table("", "CPU ms/request", f"CPU ms/{CHUNKS}-chunk stream", "requests/s")
        for title in ("added p50 ms", "added p99 ms", "added TTFT ms", "errors"):
            table.add_column(title)
        base = self.medians("no router")
        for name in self._samples:
            if name == "no router":
                continue
            middle = self.medians(name)
            table.add_row(
                name,
                self._range(name, "cpu_request_ms", 1),
                self._range(name, "cpu_chunk_ms", CHUNKS + 1),
                f"{middle['requests_per_s']:,.0f}",
                *(f"{middle[key] - base[key]:.2f}" for key in ("p50_ms", "p99_ms", "ttft_ms")),
                str(sum(sample.errors for sample in self._samples[name])),
            )
        return table

    def summaries(self) -> list[dict[str, Any]]:
        """For each peer, this project's round robin over it; without a peer, one without ratios."""
        base, ours = self.medians("no router"), self.medians(self._ours[0].name)
        mine = (sample for command in self._ours for sample in self._samples[command.name])
        own = {
            "added_p50_ms": round(ours["p50_ms"] - base["p50_ms"], 3),
            "added_ttft_ms": round(ours["ttft_ms"] - base["ttft_ms"], 3),
            "errors": sum(sample.errors for sample in mine),
        }
        return [{"peer": name, **self._ratios(name), **own} for name in self._peer_names()]

    def medians(self, name: str) -> Mapping[str, float]:
        """Over the rounds."""
        fields = Sample.__slots__
        return {key: statistics.median(getattr(s, key) for s in self._samples[name]) for key in fields}

    def _peer_names(self) -> list[str | None]:
        return [peer.name for peer in self._peers] or [None]

    def _ratios(self, name: str | None) -> dict[str, float | None]:
        keys = {"cpu_per_request_ratio": "cpu_request_ms", "cpu_per_chunk_ratio": "cpu_chunk_ms"}
        if name is None:
            return dict.fromkeys(keys)
        ours, peer = self.medians(self._ours[0].name), self.medians(name)
        return {ratio: round(ours[key] / peer[key], 3) for ratio, key in keys.items()}

    def _note(self, name: str, sample: Sample) -> None:
        self._samples.setdefault(name, []).append(sample)

    def _range(self, name: str, key: str, factor: int) -> str:
        values = [getattr(sample, key) * factor for sample in self._samples[name]]
        return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"

    async def _round(self, router: RunningRouter | None, url: str) -> Sample:
        whole, stream = (chat_request(PROMPT_BYTES, stream=stream) for stream in (False, True))
        await load(url, whole, requests=200, connections=CONNECTIONS)  # opens the connections
        calm = await load(
            url, whole, requests=self._requests // 10, connections=CALM_CONNECTIONS, pause_s=CALM_PAUSE_S
        )
        busy, busy_s = await self._costed(router, url, whole, self._requests)
        streams, streams_s = await self._costed(router, url, stream, self._streams)
        return Sample(
            cpu_request_ms=busy_s * 1000 / self._requests,
            cpu_chunk_ms=streams_s * 1000 / self._streams / (CHUNKS + 1),
            requests_per_s=len(busy.e2e_s) / busy.wall_s,
            p50_ms=calm.e2e_ms(50),
            p99_ms=calm.e2e_ms(99),
            ttft_ms=streams.ttft_ms(50),
            errors=sum(len(one.errors) for one in (calm, busy, streams)),
        )

    async def _costed(
        self, router: RunningRouter | None, url: str, request: bytes, count: int
    ) -> tuple[Tally, float]:
        before_s = router.cpu_s() if router else 0.0
        tally = await load(url, request, requests=count, connections=CONNECTIONS)
        await asyncio.sleep(0.05)  # what follows the last answer
        return tally, router.cpu_s() - before_s if router else 0.0


@contextmanager
def _mocks() -> Iterator[list[str]]:
    mocks = [mock_engine.start(f"mock-{index}", CHUNKS, TICK_S) for index in range(INSTANCES)]
    try:
        yield [url for _, url in mocks]
    finally:
        for process, _ in mocks:
            process.terminate()
            process.join()

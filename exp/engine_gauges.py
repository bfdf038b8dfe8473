"""Preemptions and KV use of a vLLM server while a load runs, from its ``/metrics``."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

_EVERY_S = 1.0
_PREEMPTIONS = "vllm:num_preemptions_total"
_KV_USE = "vllm:kv_cache_usage_perc"


class EngineGauges:
    """Polls seldom, so that the server hardly notices; usable inside ``async with``."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._kv_use: list[float] = []
        self._preemptions: list[float] = []

    @property
    def preemptions(self) -> int:
        """Since the load began."""
        return round(self._preemptions[-1] - self._preemptions[0]) if self._preemptions else 0

    @property
    def kv_use_mean(self) -> float:
        """Share of the KV blocks in use."""
        return sum(self._kv_use) / len(self._kv_use) if self._kv_use else 0.0

    @property
    def kv_use_max(self) -> float:
        """The largest that was seen; peaks between two polls are missed."""
        return max(self._kv_use, default=0.0)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        self._preemptions.append((await self._read())[_PREEMPTIONS])
        self._poller = asyncio.create_task(self._poll())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._poller.cancel()
        with suppress(asyncio.CancelledError):
            await self._poller
        with suppress(aiohttp.ClientError, TimeoutError):
            self._preemptions.append((await self._read())[_PREEMPTIONS])
        await self._session.close()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            with suppress(aiohttp.ClientError, TimeoutError):
                self._kv_use.append((await self._read())[_KV_USE])

    async def _read(self) -> dict[str, float]:
        async with self._session.get(self._url) as response:
            text = await response.text()
        # Only the two lines: parsing all of them would take the client's time.
        wanted = "\n".join(line for line in text.splitlines() if line.startswith((_PREEMPTIONS, _KV_USE)))
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(wanted + "\n")
            for sample in family.samples
        }

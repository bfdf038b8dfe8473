"""The router under what may break it: thousands of streams, very long prompts, very many requests."""

from __future__ import annotations

import resource
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from exp import mock_engine
from exp.router_load import Tally, chat_request, load
from exp.router_process import RouterCommand, RunningRouter, running

TICK_S = 0.1
INSTANCES = 2
WARM_SHARE = 0.1
"""Part of the requests after which memory counts as settled."""
LONG_STREAMS_PER_CONNECTION = 2
BUSY_CONNECTIONS = 32


class StressBench:
    """``run`` it once."""

    def __init__(self, streams: int, connections: int, prompt_bytes: int, requests: int, chunks: int) -> None:
        """``streams`` at once; ``connections`` with prompts of ``prompt_bytes``; ``requests`` in a row.

        A stream has ``chunks`` events.
        """
        self._streams = streams
        self._connections = connections
        self._prompt_bytes = prompt_bytes
        self._requests = requests
        self._chunks = chunks

    def run(self) -> dict[str, Any]:
        """Measure; times in milliseconds, memory in megabytes."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        try:
            return self._run()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def _run(self) -> dict[str, Any]:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            mocks = [mock_engine.start(f"mock-{index}", self._chunks, TICK_S) for index in range(INSTANCES)]
            for process, _ in mocks:
                stack.callback(process.terminate)
            urls = [url for _, url in mocks]
            router = stack.enter_context(running(RouterCommand.ours("round_robin"), urls, folder))
            many = self._many_streams(router.url)
            through, direct = self._long_prompts(router.url), self._long_prompts(urls[0])
            memory, row_errors = self._memory(router)
            return {
                "streams": self._streams,
                "stream_e2e_p99_ms": round(many.e2e_ms(99)),
                "long_prompt_ttft_added_p50_ms": round(through.ttft_ms(50) - direct.ttft_ms(50), 1),
                "long_prompt_ttft_added_p99_ms": round(through.ttft_ms(99) - direct.ttft_ms(99), 1),
                **memory,
                "errors": len(many.errors) + len(through.errors) + row_errors,
                "first_errors": (many.errors + through.errors)[:3],
            }

    def _many_streams(self, url: str) -> Tally:
        request = chat_request(1000, stream=True)
        return uvloop.run(load(url, request, requests=self._streams, connections=self._streams))

    def _long_prompts(self, url: str) -> Tally:
        """The connections begin one after the other over a second, as clients do."""
        request = chat_request(self._prompt_bytes, stream=True)
        count = self._connections * LONG_STREAMS_PER_CONNECTION
        return uvloop.run(load(url, request, requests=count, connections=self._connections, pause_s=1.0))

    def _memory(self, router: RunningRouter) -> tuple[dict[str, Any], int]:
        request = chat_request(1000, stream=False)
        warm = int(self._requests * WARM_SHARE)
        first = uvloop.run(load(router.url, request, requests=warm, connections=BUSY_CONNECTIONS))
        before = router.rss_bytes()
        rest = self._requests - warm
        second = uvloop.run(load(router.url, request, requests=rest, connections=BUSY_CONNECTIONS))
        after = router.rss_bytes()
        memory = {
            "requests": self._requests,
            f"rss_mb_after_{warm}": round(before / 1e6, 1),
            f"rss_mb_after_{self._requests}": round(after / 1e6, 1),
        }
        return memory, len(first.errors) + len(second.errors)

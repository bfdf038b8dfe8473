"""An open-loop load client: sends each request at its time, whatever became of the ones before.

Uses the official OpenAI client, streaming. Every request ends as an ``Outcome``; one that failed
carries its error. Knows nothing of how the servers were started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI

from exp.prompt import PromptWriter
from exp.workload import TraceRequest, Workload

_REQUEST_TIMEOUT_S = 600.0


@dataclass(slots=True)
class Outcome:
    """What became of one request; times are from the moment it was sent. Filled in as it goes."""

    request: TraceRequest
    policy: str
    lateness_s: float = 0.0
    """How late the client itself was."""
    ttft_s: float | None = None
    e2e_s: float | None = None
    output_tokens: int | None = None
    """As the server counted them."""
    instance: str | None = None
    predicted_ttft_s: float | None = None
    predicted_e2e_s: float | None = None
    decision_s: float | None = None
    fallback: str | None = None
    error: str = ""
    """Empty when the request was answered whole."""

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first."""
        if self.e2e_s is None or self.ttft_s is None or not self.output_tokens or self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)


class LoadClient:
    """Sends workloads to one OpenAI server."""

    def __init__(self, base_url: str, model: str, writer: PromptWriter) -> None:
        self._client = AsyncOpenAI(
            # No retries: a request that fails is to be seen.
            base_url=base_url,
            api_key="none",
            max_retries=0,
            timeout=_REQUEST_TIMEOUT_S,
        )
        self._model = model
        self._writer = writer

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def run(
        self, workload: Workload, policy: str, on_done: Callable[[Outcome], None] | None = None
    ) -> list[Outcome]:
        """Send every request at its arrival time; returns their outcomes, in the workload's order."""
        outcomes = [Outcome(request, policy) for request in workload.requests]
        prompts = [self._writer.write(r.prompt_tokens, seed=i) for i, r in enumerate(workload.requests)]
        start_s = asyncio.get_running_loop().time()
        tasks = [
            asyncio.create_task(self._send_at(start_s, outcome, prompt))
            for outcome, prompt in zip(outcomes, prompts, strict=True)
        ]
        for task, outcome in zip(tasks, outcomes, strict=True):
            task.add_done_callback(_recorder(outcome, on_done))
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
        return outcomes

    async def _send_at(self, start_s: float, outcome: Outcome, prompt: str) -> None:
        loop = asyncio.get_running_loop()
        due_s = start_s + outcome.request.arrival_s
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        sent_s = loop.time()
        outcome.lateness_s = sent_s - due_s
        response = await self._client.chat.completions.with_raw_response.create(
            model=self._model,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=outcome.request.output_tokens,
            stream=True,
            stream_options={"include_usage": True},
            # The recorded length, whatever the model would have said.
            extra_body={"ignore_eos": True},
            extra_headers={
                "x-block-output-tokens": str(outcome.request.output_tokens),
                "x-block-policy": outcome.policy,
            },
        )
        _read_headers(outcome, response.headers)
        async for chunk in response.parse():
            _read_chunk(outcome, chunk, loop.time() - sent_s)
        if outcome.ttft_s is None or outcome.output_tokens is None:
            raise ValueError("the stream ended without tokens or without its usage")
        if outcome.output_tokens != outcome.request.output_tokens:
            raise ValueError(
                f"got {outcome.output_tokens} tokens, {outcome.request.output_tokens} were asked for"
            )
        outcome.e2e_s = loop.time() - sent_s


def _read_headers(outcome: Outcome, headers: Mapping[str, str]) -> None:
    outcome.instance = headers.get("x-block-instance")
    outcome.fallback = headers.get("x-block-fallback")
    outcome.predicted_ttft_s = _seconds(headers.get("x-block-predicted-ttft-ms"))
    outcome.predicted_e2e_s = _seconds(headers.get("x-block-predicted-e2e-ms"))
    outcome.decision_s = _seconds(headers.get("x-block-decision-ms"))


def _read_chunk(outcome: Outcome, chunk: Any, elapsed_s: float) -> None:
    if outcome.ttft_s is None and chunk.choices and chunk.choices[0].delta.content:
        outcome.ttft_s = elapsed_s
    if chunk.usage is not None:
        outcome.output_tokens = chunk.usage.completion_tokens


def _recorder(
    outcome: Outcome, on_done: Callable[[Outcome], None] | None
) -> Callable[[asyncio.Task[None]], None]:
    """Whatever ended the task is written down, so that no failure is lost."""

    def record(task: asyncio.Task[None]) -> None:
        if task.cancelled():
            outcome.error = "cancelled"
        elif (error := task.exception()) is not None:
            outcome.error = f"{type(error).__name__}: {error}"
        if on_done is not None:
            on_done(outcome)

    return record


def _seconds(milliseconds: str | None) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1e3

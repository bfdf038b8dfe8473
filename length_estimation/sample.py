"""``block-length sample``: prompts with the real lengths of their answers, as training data.

Lengths come from recorded answers, or from a running endpoint that the prompts are sent to. What has
been written is not asked again, so an interrupted run goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import numpy as np
from rich.progress import Progress

from block.errors import InstanceError, PackError
from length_estimation.dataset import (
    UNLIMITED,
    Exchange,
    Prompts,
    data_file,
    exchanges_of,
    identity_of,
    read_rows,
)
from length_estimation.out_file import check_out
from length_estimation.token_counter import TokenCounter, make_token_counter

_PATIENCE_S: Final = 600.0
_MOST_FAILURES: Final = 20
"""In a row; then the endpoint is taken for down."""
_NO_ENTRY_STATUS: Final = (401, 403)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where prompts are sent, and how."""

    url: str
    model: str
    max_tokens: int
    temperature: float
    concurrency: int
    key: str | None = field(default=None, repr=False)
    """API key, if it wants one."""

    @property
    def chat_url(self) -> str:
        """``url`` may end in /v1, as OpenAI's clients have it, or not."""
        return f"{self.url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}


@dataclass(frozen=True, slots=True)
class _Question:
    key: str
    """Digest of conversation, prompt and model; the id of the row that is written."""
    conversation: str
    exchange: Exchange


def sample(
    data: Sequence[Path],
    out: Path,
    endpoint: Endpoint | None,
    count: int | None,
    seed: int,
    tokenizer: Path | None,
    progress: Progress,
) -> dict[str, int]:
    """Append rows to ``out``; returns how many were written, were there, and failed.

    Raises PackError for unreadable data, InstanceError for an endpoint that is down or wants another key.
    """
    check_out(data, out)
    counter = make_token_counter(tokenizer)
    asked = _questions(data, counter, endpoint.model if endpoint else "")
    if not asked:
        raise PackError(f"{', '.join(map(str, data))}: no prompt in it")
    if count is not None and count < len(asked):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(asked))[:count])
        asked = [asked[i] for i in chosen]
    _mend(out)
    known = _known(out)
    left = [question for question in asked if question.key not in known]
    task = progress.add_task("sample", total=len(left))
    with out.open("ab") as file:
        writing = _Writing(file, progress, task)
        if endpoint is None:
            for question in left:
                writing.put(_recorded(question))
        else:
            asyncio.run(_ask_all(endpoint, left, writing))
            if left and writing.failed == len(asked):
                raise InstanceError(
                    f"{endpoint.url}: none of {len(asked)} requests was answered "
                    f"(last: {writing.last_failure})"
                )
    return {"written": writing.written, "known": len(asked) - len(left), "failed": writing.failed}


class _Writing:
    """Rows to a file, with counts; a text says why there is none."""

    def __init__(self, file: Any, progress: Progress, task: Any) -> None:
        self._file = file
        self._progress = progress
        self._task = task
        self.written = 0
        self.failed = 0
        self.failed_in_a_row = 0
        self.last_failure = ""

    def put(self, row: dict[str, Any] | str) -> None:
        """Write and flush, so that nothing paid for is lost."""
        if isinstance(row, str):
            self.failed += 1
            self.failed_in_a_row += 1
            self.last_failure = row
        else:
            self._file.write(msgspec.json.encode(row) + b"\n")
            self._file.flush()
            self.written += 1
            self.failed_in_a_row = 0
        self._progress.advance(self._task)


def _questions(data: Sequence[Path], counter: TokenCounter, model: str) -> list[_Question]:
    found: dict[str, _Question] = {}
    for path in data:
        prompts: Prompts = {}
        for place, row in read_rows(data_file(path)):
            conversation = f"{path.resolve().name}/{identity_of(row) or place.rpartition(':')[2]}"
            try:
                exchanges = list(exchanges_of(row, counter, prompts))
            except (TypeError, ValueError, AttributeError) as error:
                raise PackError(f"{place}: not a row with a prompt ({error})") from error
            for exchange in exchanges:
                parts = (conversation, exchange.request.prompt_json, model or exchange.request.model)
                key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
                found.setdefault(key, _Question(key, conversation, exchange))
    return list(found.values())


def _mend(out: Path) -> None:
    """End the last line of what an earlier run has written; drop it if that run was stopped within it."""
    if not out.is_file():
        return
    written = out.read_bytes()
    whole, _, last = written.rpartition(b"\n")
    if not last.strip():
        return
    try:
        msgspec.json.decode(last)
    except ValueError:
        out.write_bytes(whole + b"\n" if whole else b"")
    else:
        out.write_bytes(written + b"\n")


def _known(out: Path) -> set[str]:
    if not out.is_file():
        return set()
    return {str(row.get("key")) for _, row in read_rows(out)}


def _row(question: _Question, model: str, output_tokens: int) -> dict[str, Any]:
    prompt = question.exchange.prompt
    return {
        "key": question.key,
        "id": question.conversation,
        "model": model,
        "messages" if isinstance(prompt, list) else "prompt": prompt,
        "output_tokens": output_tokens,
    }


def _recorded(question: _Question) -> dict[str, Any] | str:
    exchange = question.exchange
    if exchange.output_tokens is None:
        return "no answer was recorded"
    row = _row(question, exchange.request.model, max(1, exchange.output_tokens))
    if exchange.request.max_tokens < UNLIMITED:
        row |= {"max_tokens": exchange.request.max_tokens}
    if exchange.cut:
        row |= {"finish_reason": "length"}
    if exchange.request.temperature is not None:
        row |= {"temperature": exchange.request.temperature}
    return row


async def _ask_all(endpoint: Endpoint, questions: list[_Question], writing: _Writing) -> None:
    waiting = iter(questions)
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
    async with aiohttp.ClientSession(timeout=timeout, headers=endpoint.headers) as session:

        async def work() -> None:
            for question in waiting:
                writing.put(await _ask(session, endpoint, question))
                if writing.failed_in_a_row >= _MOST_FAILURES:
                    raise InstanceError(
                        f"{endpoint.url}: {_MOST_FAILURES} requests failed in a row; is it up? "
                        f"(last: {writing.last_failure})"
                    )

        workers = [asyncio.create_task(work()) for _ in range(endpoint.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    usage: _Usage
    choices: list[_Choice] = []


async def _ask(
    session: aiohttp.ClientSession, endpoint: Endpoint, question: _Question
) -> dict[str, Any] | str:
    """The row, or why there was no usable answer. Raises InstanceError if nobody with this key is let in."""
    prompt = question.exchange.prompt
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    body = {
        "model": endpoint.model,
        "messages": messages,
        "max_tokens": endpoint.max_tokens,
        "temperature": endpoint.temperature,
    }
    try:
        async with session.post(endpoint.chat_url, json=body) as response:
            if response.status in _NO_ENTRY_STATUS:
                raise InstanceError(f"{endpoint.url}: {_no_entry(endpoint)} (HTTP status {response.status})")
            if response.status != 200:
                return f"HTTP status {response.status}"
            answer = msgspec.json.decode(await response.read(), type=_Answer)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    reason = answer.choices[0].finish_reason if answer.choices else None
    return _row(question, endpoint.model, answer.usage.completion_tokens) | {
        "finish_reason": reason,
        "max_tokens": endpoint.max_tokens,
        "temperature": endpoint.temperature,
    }


def _no_entry(endpoint: Endpoint) -> str:
    if endpoint.key is None:
        return "wants an API key; put it into OPENAI_API_KEY, or name its variable with --key-env"
    return "does not take the API key that it was sent"

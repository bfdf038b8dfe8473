"""ShareGPT as published: conversations as text. The first exchange of each makes a request.

Lengths are counted with a tokenizer; without one, roughly, by bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exp.workload.request import TraceRequest
from exp.workload.spec import WorkloadSpec
from exp.workload.trace import Trace
from exp.workload.trace_file import Row, json_list
from length_estimation.token_counter import ByteTokenizer, FileTokenizer, TextTokenizer

_USER, _ASSISTANT = ("human", "user"), ("gpt", "chatgpt", "bing", "bard", "assistant")


def read_sharegpt(path: Path, spec: WorkloadSpec) -> Trace:
    """Conversations that do not begin with a user's text and an answer are left out.

    Raises ConfigError that names file, entry, field and remedy.
    """
    tokenizer: TextTokenizer = FileTokenizer(spec.tokenizer) if spec.tokenizer else ByteTokenizer()
    requests = [request for row in json_list(path) if (request := _request(row, tokenizer)) is not None]
    return Trace(path, requests, timed=False)


def _request(row: Row, tokenizer: TextTokenizer) -> TraceRequest | None:
    turns = row.fields.get("conversations")
    if not isinstance(turns, list):
        raise row.wrong("conversations", "must be a list of turns")
    if len(turns) < 2:
        return None
    prompt, answer = _text(row, turns[0], _USER), _text(row, turns[1], _ASSISTANT)
    if not prompt or not answer:
        return None
    return TraceRequest(
        0.0,
        tokenizer.count(prompt, special=True),
        tokenizer.count(answer, special=False),
        prompt=prompt,
    )


def _text(row: Row, turn: Any, speakers: tuple[str, ...]) -> str:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise row.wrong("conversations", "each turn must have a text as its value")
    return str(turn["value"]) if turn.get("from") in speakers else ""

"""Examples for training and judging: a request, and how many tokens its response had.

Reads JSON lines or a JSON list of prompt/response rows (Alpaca's as well), ShareGPT conversations or
OpenAI-style messages, and what ``block-length sample`` records. Of a conversation, each answer is an
example with all that came before as its prompt. Lengths without prompts, from CSV as well, are examples
for what never reads the text.
"""

from __future__ import annotations

import codecs
import csv
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from block.errors import PackError
from length_estimation.estimator import EstimationRequest
from length_estimation.token_counter import TokenCounter

DATA_FILE: Final = "data.jsonl"
UNLIMITED: Final = 2**31 - 1
_ROLES: Final = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
_PROMPTS: Final = ("prompt", "instruction", "messages", "conversations")
_RESPONSES: Final = ("response", "completion", "output", "answer")
_LENGTHS: Final = ("output_tokens", "response_tokens", "completion_tokens", "output_token_length")
_LIMIT_REACHED: Final = ("length", "max_tokens")


@dataclass(frozen=True, slots=True)
class Example:
    """One answered request."""

    request: EstimationRequest
    output_tokens: int
    keys: tuple[str, ...]
    """Examples that share a key (a conversation, a prompt) belong to the same side of any split."""
    cut: bool = False
    """The response was ended by its limit."""


Messages = list[dict[str, Any]]


def data_file(path: Path) -> Path:
    """A folder's data file, or the file itself. Raises PackError if there is none."""
    found = path / DATA_FILE if path.is_dir() else path
    if not found.is_file():
        raise PackError(
            f"{found}: not there; name a folder with {DATA_FILE}, or a .json, .jsonl or .csv file"
        )
    return found


def read_examples(path: Path, counter: TokenCounter) -> list[Example]:
    """All examples of a folder or file, in its order. Raises PackError that names the line."""
    examples: list[Example] = []
    prompts: Prompts = {}
    for place, row in read_rows(data_file(path)):
        try:
            examples += _examples(row, place, counter, prompts)
        except (TypeError, ValueError, AttributeError) as error:
            raise PackError(f"{place}: not a row of prompt and response ({error})") from error
    if not examples:
        raise PackError(f"{path}: no prompt with a response in it")
    return examples


def require_prompts(examples: Sequence[Example]) -> None:
    """Raises PackError if some have none: what reads the text has nothing to learn from them."""
    bare = sum(not example.request.prompt_json for example in examples)
    if bare:
        raise PackError(
            f"{bare} of {len(examples)} examples have no prompt; "
            "lengths alone do for constant, max_tokens and history"
        )


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(place, row)`` of a JSON list, of JSON lines, or of CSV with a line of names."""
    number = 0
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as table:
                for number, row in enumerate(csv.DictReader(table, strict=True), 2):
                    yield f"{path}:{number}", row
            return
        with path.open("rb") as file:
            start = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
            file.seek(start)
            first = next((line for line in file if line.strip()), b"")
            file.seek(start)
            listed = first.lstrip().startswith(b"[")
            lines: Iterable[Any] = msgspec.json.decode(file.read()) if listed else file
            for number, line in enumerate(lines, 1):
                if not listed and not line.strip():
                    continue
                row = line if listed else msgspec.json.decode(line)
                if not isinstance(row, dict):
                    raise PackError(f"{path}:{number}: a row must be an object")
                yield f"{path}:{number}", row
    except OSError as error:
        raise PackError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError, csv.Error) as error:
        form = "CSV" if path.suffix == ".csv" else "JSON or JSON lines"
        raise PackError(f"{path}:{max(number, 1)}: not {form} ({error})") from error


Prompts = dict[tuple[str, str], Any]
"""Prompts that were given, by id and model: further samples of one may leave it out."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt or the messages of a row, and what is known of the answer."""

    prompt: Any
    """Text, or a list of messages."""
    request: EstimationRequest
    response: str | None
    """None where it is not given; its length may be."""
    output_tokens: int | None
    """As recorded, else counted; None where there is nothing to count."""
    cut: bool
    """The response was ended by its limit."""


def exchanges_of(row: dict[str, Any], counter: TokenCounter, prompts: Prompts) -> Iterator[Exchange]:
    """All exchanges of a row. Raises TypeError, ValueError or AttributeError for what is no such row."""
    turns = list(_turns(row, prompts))
    for number, (prompt, response) in enumerate(turns, 1):
        prompt_json = json.dumps(prompt).encode()
        counted = counter.messages if isinstance(prompt, list) else counter.prompt
        request = _request(row, prompt_json, counted(prompt_json))
        cut = number == len(turns) and _is_cut(row)  # a conversation's last answer is what the row tells of
        yield Exchange(prompt, request, response, _output_tokens(row, response, counter), cut)


def _examples(row: dict[str, Any], place: str, counter: TokenCounter, prompts: Prompts) -> Iterator[Example]:
    identity = identity_of(row)
    keys = (f"id {identity}",) if identity else (f"row {place}",)
    if not _has_prompt(row, prompts) and (tokens := _output_tokens(row, None, counter)) is not None:
        request = _request(row, b"", _whole(row, "prompt_tokens") or 0)
        yield Example(request, max(1, tokens), keys, _is_cut(row))
        return
    for exchange in exchanges_of(row, counter, prompts):
        if exchange.output_tokens is not None:
            own = (*keys, f"prompt {_opening(exchange.prompt)}")
            yield Example(exchange.request, max(1, exchange.output_tokens), own, exchange.cut)


def identity_of(row: dict[str, Any]) -> str:
    """Id of the conversation or the prompt; empty if it has none."""
    known = (row.get(name) for name in ("id", "conversation_id"))
    return next((str(value) for value in known if value is not None), "")


def _request(row: dict[str, Any], prompt_json: bytes, prompt_tokens: int) -> EstimationRequest:
    return EstimationRequest(
        prompt_tokens=prompt_tokens,
        max_tokens=_limit(row) or UNLIMITED,
        prompt_json=prompt_json,
        model=_model_of(row),
        temperature=_number(row.get("temperature")),
    )


def _model_of(row: dict[str, Any]) -> str:
    return str(row.get("model") or "")


def _has_prompt(row: dict[str, Any], prompts: Prompts) -> bool:
    """Its own, or that of an earlier sample."""
    sampled = bool(identity_of(row)) and (identity_of(row), _model_of(row)) in prompts
    return sampled or any(row.get(name) is not None for name in _PROMPTS)


def _turns(row: dict[str, Any], prompts: Prompts) -> Iterator[tuple[Any, str | None]]:
    """``(prompt or messages, response)``; the response is None where it is not given."""
    place = identity_of(row), _model_of(row)
    turns = row.get("conversations", row.get("messages"))
    response = next((row[name] for name in _RESPONSES if isinstance(row.get(name), str)), None)
    if isinstance(turns, list):
        messages = [_message(turn) for turn in turns]
        if response is not None or any(row.get(name) is not None for name in _LENGTHS):
            yield messages, response
            return
        for i, message in enumerate(messages):
            if message["role"] == "assistant" and i > 0:
                yield messages[:i], str(message["content"] or "")
        return
    prompt = _instruction(row) if row.get("prompt") is None else row["prompt"]
    if prompt is None and place[0]:
        prompt = prompts.get(place)  # further samples of a prompt that was given once
    if prompt is None:
        raise ValueError("no prompt, messages or conversations")
    prompts[place] = prompt
    yield prompt, response


def _instruction(row: dict[str, Any]) -> Any:
    """Of Alpaca's rows, joined with what the instruction is about."""
    instruction, matter = row.get("instruction"), row.get("input")
    both = isinstance(instruction, str) and isinstance(matter, str) and matter.strip()
    return f"{instruction}\n{matter}" if both else instruction


def _message(turn: dict[str, Any]) -> dict[str, Any]:
    role = str(turn.get("role", turn.get("from", "user")))
    return {"role": _ROLES.get(role, role), "content": turn.get("content", turn.get("value"))}


def _output_tokens(row: dict[str, Any], response: str | None, counter: TokenCounter) -> int | None:
    """Recorded, or counted; of a row that has neither, None."""
    known = _recorded_tokens(row)
    if known is None:
        return None if response is None else counter.text(response)
    if not 0 <= known < UNLIMITED:
        raise ValueError(f"{known} output tokens")
    return known


def _recorded_tokens(row: dict[str, Any]) -> int | None:
    return next((tokens for name in _LENGTHS if (tokens := _whole(row, name)) is not None), None)


def _limit(row: dict[str, Any]) -> int | None:
    """Most tokens that were allowed; None where it is not told."""
    most = _whole(row, "max_tokens")
    if most is not None and most < 1:
        raise ValueError(f"max_tokens = {most}: must be at least 1; leave it out where there was no limit")
    return most


def _whole(row: dict[str, Any], name: str) -> int | None:
    """A count, which CSV has as text and some JSON as 12.0; None where it is not told."""
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        if not isinstance(value, bool) and float(value).is_integer():
            return int(float(value))
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} = {value!r}: must be a whole number")


def _is_cut(row: dict[str, Any]) -> bool:
    """Whether its response was ended by a limit: said so, or as long as was allowed and nothing said."""
    reason = row.get("finish_reason", row.get("stop_reason"))
    if reason is not None or row.get("ended") is not None:
        return reason in _LIMIT_REACHED or row.get("ended") is False
    tokens, most = _recorded_tokens(row), _limit(row)
    return tokens is not None and most is not None and tokens >= most


def _number(value: Any) -> float | None:
    """Of CSV as well, where it is text; None for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _opening(prompt: Any) -> str:
    """What a prompt, or all turns of a conversation with a user, begin with.

    The same for those that differ in case, white space and Unicode's composition only.
    """
    asked = prompt
    if isinstance(prompt, list):
        users = (turn for turn in prompt if isinstance(turn, dict) and turn.get("role") == "user")
        first = next(users, None)
        asked = prompt if first is None else _text(first.get("content"))
    text = asked if isinstance(asked, str) else json.dumps(asked)
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _text(content: Any) -> Any:
    """A message's text, if text is all it has."""
    if not isinstance(content, list):
        return content
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "\n".join(texts) if len(texts) == len(parts) else content

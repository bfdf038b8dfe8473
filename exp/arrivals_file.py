"""The requests that ``block-exp simulate`` is given: a file with one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

from block.errors import ConfigError, StateError
from block.once import fields_once
from block.settings import Settings
from block.simulation.engine import SimulatedRequest, check_request
from block.types import EngineLimits

HASH_TOKENS = 16
"""Prompt tokens that one entry of ``block_hashes`` stands for, whatever the engine's block size."""

Time = Annotated[float, Field(strict=True, ge=0, le=1e12, allow_inf_nan=False)]
Tokens = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]


def _identity(value: Any) -> int | str:
    """JSON can name halves of characters, which no file can hold."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise PydanticCustomError("identity", "must be a text or a whole number")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise PydanticCustomError("half_character", "must be text that UTF-8 can write")
    return value


Identity = Annotated[int | str, PlainValidator(_identity)]


class ArrivalLine(Settings):
    """One line's fields."""

    id: Identity = Field(description="Names the request; given once.")
    arrival_s: Time = Field(description="When it arrives, on the simulation's clock.")
    prompt_tokens: Tokens
    output_tokens: Tokens = Field(description="Where its response ends; the engine knows it as max_tokens.")
    priority: Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)] = Field(
        0, description="Lower is more urgent; counts under the priority policy."
    )
    block_hashes: tuple[Identity, ...] = Field(
        (), description="Equal leading entries mean equal leading 16-token blocks of the prompts."
    )
    abort_s: Time | None = Field(None, description="When its client leaves.")


@dataclass(frozen=True, slots=True)
class ArrivalsFile:
    """The requests, in the file's order."""

    requests: tuple[SimulatedRequest, ...]
    numbers: frozenset[str]
    """Ids that the file writes as numbers."""

    @classmethod
    def load(cls, path: Path, limits: EngineLimits) -> ArrivalsFile:
        """Read the file; raises ConfigError that names file, line, field, value and remedy."""
        requests: dict[str, SimulatedRequest] = {}
        numbers: set[str] = set()
        blocks = BlockKeys(limits)
        for place, line in _lines(path):
            name = str(line.id)
            if name in requests:
                raise ConfigError(
                    f"{path}:{place}: id = {line.id!r}: given before; give every request its own"
                )
            if isinstance(line.id, int):
                numbers.add(name)
            request = requests[name] = _request(line, blocks)
            try:
                check_request(request, limits)
            except StateError as error:
                raise ConfigError(f"{path}:{place}: {error}") from error
        return cls(tuple(requests.values()), frozenset(numbers))

    def written(self, name: str) -> str | int:
        """An id as the file writes it."""
        return int(name) if name in self.numbers else name


class BlockKeys:
    """From hashes of 16 tokens to one number per block of the engine; equal numbers, equal blocks."""

    def __init__(self, limits: EngineLimits) -> None:
        self._size = limits.block_size
        self._wanted = limits.prefix_caching
        self._known: dict[tuple[int | str, ...], int] = {}

    def of(self, hashes: tuple[int | str, ...], prompt_tokens: int) -> tuple[int, ...]:
        """Keys of the leading blocks that hashes cover; a hash of tokens beyond the prompt is ignored."""
        if not self._wanted:
            return ()
        covered = min(len(hashes), prompt_tokens // HASH_TOKENS) * HASH_TOKENS
        return tuple(
            self._known.setdefault(
                hashes[first // HASH_TOKENS : -(-(first + self._size) // HASH_TOKENS)], len(self._known)
            )
            for first in range(0, covered - self._size + 1, self._size)
        )


def _request(line: ArrivalLine, blocks: BlockKeys) -> SimulatedRequest:
    return SimulatedRequest(
        id=str(line.id),
        arrival_s=line.arrival_s,
        prompt_tokens=line.prompt_tokens,
        output_tokens=line.output_tokens,
        priority=line.priority,
        block_hashes=blocks.of(line.block_hashes, line.prompt_tokens),
        abort_s=line.abort_s,
    )


def _lines(path: Path) -> Iterator[tuple[int, ArrivalLine]]:
    """Line numbers and their contents; empty lines are skipped."""
    try:
        with path.open("rb") as file:
            for place, text in enumerate(file, start=1):
                if text.strip():
                    yield place, _parse(f"{path}:{place}", text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _parse(source: str, text: bytes) -> ArrivalLine:
    try:
        raw = json.loads(text, object_pairs_hook=fields_once)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not a line of JSON ({error}); write one object per line") from error
    try:
        return ArrivalLine.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error.errors()[0])}") from error


def _explain(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"]) or "line"
    if item["type"] == "extra_forbidden":
        return f"{field}: unknown field; known here: {', '.join(ArrivalLine.model_fields)}"
    if item["type"] == "missing":
        return f"{field}: missing; add it"
    shown = repr(item["input"])
    return f"{field} = {shown if len(shown) < 60 else shown[:57] + '...'}: {item['msg']}; mend it"

"""What one run of a load saw, request by request and token by token: the file that metrics are made from.

Real servers, emulated ones and the virtual clock all write this. Times are seconds from the run's start.
JSON lines: the first is the run, every other one a request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from block.errors import ConfigError

Clock = Literal["real", "emulated", "virtual"]
FORMAT = 1

ItemT = TypeVar("ItemT")


class RequestLog(msgspec.Struct, frozen=True):
    """One request as its client saw it."""

    due_s: float
    """When it was to be sent."""
    sent_s: float
    prompt_tokens: int
    output_tokens: int
    """As asked for."""
    token_s: tuple[float, ...]
    """When each token came; tokens of one message share its time."""
    error: str = ""
    """Empty when the request was answered whole."""


class RunHeader(msgspec.Struct, frozen=True):
    """The run as a whole."""

    clock: Clock
    name: str
    """Which load it was."""
    start_monotonic_s: float
    """The run's zero on the machine's monotonic clock; 0 in virtual time."""
    wall_s: float
    """What the run took on the wall clock."""
    preemptions: int
    kv_use_mean: float
    """Share of the KV blocks in use, over the run."""
    kv_use_max: float
    other_cores: float = 0.0
    """Busy cores of this machine that were no part of the run."""
    format: int = FORMAT


class RunLog(msgspec.Struct, frozen=True):
    """A run and its requests, in the order in which they were due."""

    header: RunHeader
    requests: tuple[RequestLog, ...]

    @property
    def good(self) -> list[RequestLog]:
        """Requests that were answered whole."""
        return [request for request in self.requests if not request.error]

    @property
    def worst_lateness_s(self) -> float:
        """Of the client itself; large values mean that the load was not as asked for."""
        return max((request.sent_s - request.due_s for request in self.requests), default=0.0)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        encoder = msgspec.json.Encoder()
        lines = [encoder.encode(item) for item in (self.header, *self.requests)]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(b"\n".join(lines) + b"\n")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> RunLog:
        """Read the file; raises ConfigError that names file and line."""
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        if not lines:
            raise ConfigError(f"{path}: empty; not the log of a run")
        header = _decoded(lines[0], RunHeader, f"{path}:1")
        if header.format != FORMAT:
            raise ConfigError(f"{path}:1: format = {header.format}: this version reads {FORMAT}")
        requests = [
            _decoded(line, RequestLog, f"{path}:{place}") for place, line in enumerate(lines[1:], start=2)
        ]
        return cls(header, tuple(requests))


def _decoded(line: bytes, kind: type[ItemT], place: str) -> ItemT:
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{place}: {error}; the file is damaged or not the log of a run") from error

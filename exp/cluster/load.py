"""The requests that a simulated cluster gets: arrays, one entry per request. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from block.errors import StateError
from block.simulation.length_rows import length_rows
from block.simulation.memory import Floats, Ints
from exp.workload import TraceRequest

_POINT = np.array([0.5])


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedLengths:
    """What routers expect of the responses: quantiles at levels that all requests share."""

    levels: Floats
    """(levels,) rising, within (0, 1); a single one is a point."""
    tokens: Floats
    """(requests, levels) rising along each row."""

    @classmethod
    def points(cls, tokens: Ints | Floats) -> Self:
        """Exactly so many tokens each."""
        return cls(_POINT, np.asarray(tokens, np.float64)[:, None])

    def rows(self) -> Floats:
        """As the simulation takes them; raises StateError for what is no distribution."""
        return length_rows(self.levels, self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class ClusterLoad:
    """Requests by number. Raises StateError for columns that do not fit each other."""

    arrival_s: Floats
    """(requests,) at the schedulers, never falling."""
    prompt_tokens: Ints
    output_tokens: Ints
    """Where responses really end."""
    expected: ExpectedLengths | None = None
    """None: routers know the true lengths."""
    max_tokens: Ints | None = None
    """What the client allows, which engines and routers know; None: as many as fit, so that nobody learns
    the true length from it."""
    priority: Ints | None = None
    levels: Floats | None = None
    """(requests, scenarios) levels at which what-ifs take the lengths; None: as predictors do."""
    sessions: Sequence[str] = ()
    """What clients call their conversations; none, or one each."""
    block_hashes: Sequence[tuple[int, ...]] = ()
    """Equal leading ones mean equal leading ``exp.workload.HASH_TOKENS`` tokens of the prompts, each; none,
    or a tuple for each."""

    def __post_init__(self) -> None:
        count = len(self.arrival_s)
        columns = (
            self.prompt_tokens,
            self.output_tokens,
            self.max_tokens,
            self.priority,
            self.sessions or None,
            self.block_hashes or None,
        )
        if any(column is not None and len(column) != count for column in columns):
            raise StateError("load: its columns differ in length")
        if self.expected is not None and len(self.expected.tokens) != count:
            raise StateError("load.expected: need one row for each request")
        if count and (
            not np.isfinite(self.arrival_s).all() or (np.diff(self.arrival_s, prepend=0.0) < 0).any()
        ):
            raise StateError("load.arrival_s: must be seconds from 0 on that never fall")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def lengths(self) -> ExpectedLengths:
        """What routers expect, the truth if nothing else was given."""
        return self.expected or ExpectedLengths.points(self.output_tokens)


def known_load(requests: Sequence[TraceRequest]) -> ClusterLoad:
    """A trace whose lengths are known to everybody: clients ask for exactly as many tokens as it has."""
    output = np.array([request.output_tokens for request in requests], np.int64)
    return ClusterLoad(
        arrival_s=np.array([request.arrival_s for request in requests], np.float64),
        prompt_tokens=np.array([request.prompt_tokens for request in requests], np.int64),
        output_tokens=output,
        max_tokens=output,
        block_hashes=block_hashes_of(requests),
    )


def block_hashes_of(requests: Sequence[TraceRequest]) -> tuple[tuple[int, ...], ...]:
    """A tuple for each request; none at all where no request has any."""
    hashes = tuple(request.block_hashes for request in requests)
    return hashes if any(hashes) else ()

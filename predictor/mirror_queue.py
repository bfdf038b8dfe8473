"""One queue of the mirrored engine: who stands in it, in order, and their counters as int32 columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from block.errors import StateError
from block.messages import Columns, RequestFacts
from block.types import EngineLimits

Column = NDArray[np.int32]
COLUMN_NAMES = Columns.__struct_fields__


@dataclass(frozen=True, slots=True)
class QueueOrder:
    """The requests of a queue. Rebuilt only when the order changes."""

    name: str
    """Field of the feed's messages, for errors."""
    facts: tuple[RequestFacts, ...]
    prompt_tokens: Column
    max_tokens: Column

    @classmethod
    def read(cls, name: str, handles: bytes, known: Mapping[int, RequestFacts]) -> Self:
        """From packed handles; raises StateError for one that is unknown."""
        listed = unpacked(name, handles).tolist()
        strangers = [handle for handle in listed if handle not in known]
        if strangers:
            raise StateError(f"{name}: unknown handle {strangers[0]}")
        facts = tuple(known[handle] for handle in listed)
        return cls(
            name=name,
            facts=facts,
            prompt_tokens=np.array([item.prompt_tokens for item in facts], dtype=np.int32),
            max_tokens=np.array([item.max_tokens for item in facts], dtype=np.int32),
        )


@dataclass(frozen=True, slots=True)
class MirrorQueue:
    """An order with its columns, checked."""

    order: QueueOrder
    columns: Columns
    """As they came."""
    computed: Column
    generated: Column
    in_flight: Column
    placeholders: Column
    newest: Column

    @classmethod
    def read(cls, order: QueueOrder, columns: Columns, limits: EngineLimits) -> Self:
        """From packed columns; raises StateError that names the column."""
        queue = cls(order, columns, *(_read_column(order, name, columns) for name in COLUMN_NAMES))
        queue._check(limits)
        return queue

    def blocks(self, block_size: int) -> int:
        """Blocks that the computed tokens fill, if no two requests share any."""
        return int(np.sum(-(-self.computed.astype(np.int64) // block_size)))

    def _check(self, limits: EngineLimits) -> None:
        order, total = self.order, self.order.prompt_tokens.astype(np.int64) + self.generated
        self._refuse("generated", self.generated > order.max_tokens, "more than max_tokens")
        self._refuse("generated", total > limits.max_model_len, "does not fit beside the prompt")
        self._refuse(
            "computed", self.computed > total + self.placeholders, "more than the request has tokens"
        )
        self._refuse("newest", self.newest > self.in_flight, "more than are in flight")
        capacity = limits.total_blocks * limits.block_size
        self._refuse("computed", self.computed > capacity, f"more than all blocks hold ({capacity})")

    def _refuse(self, column: str, wrong: NDArray[np.bool_], why: str) -> None:
        if wrong.any():
            index = int(np.argmax(wrong))
            value = getattr(self, column)[index]
            raise StateError(
                f"{self.order.name}_columns.{column}: {value} for request {self.order.facts[index].id}: {why}"
            )


def unpacked(name: str, data: bytes) -> Column:
    """Little-endian int32 values; raises StateError for a negative or a cut-off one."""
    if len(data) % 4:
        raise StateError(f"{name}: {len(data)} bytes are no whole int32 values")
    values = np.frombuffer(data, dtype="<i4")
    if len(values) and int(values.min()) < 0:
        raise StateError(f"{name}: {int(values.min())} must not be negative")
    return values


def _read_column(order: QueueOrder, name: str, columns: Columns) -> Column:
    field = f"{order.name}_columns.{name}"
    values = unpacked(field, getattr(columns, name))
    if len(values) != len(order.facts):
        raise StateError(f"{field}: {len(values)} values for {len(order.facts)} requests")
    return values

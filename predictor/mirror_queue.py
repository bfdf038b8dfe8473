"""One queue of the mirrored engine: who stands in it, in order, and their counters as integer columns.

Rows and their order are those of ``block.simulation.columns``, which begin with the feed's own columns, so
that a whole queue goes into the simulation's input by copying two blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Self

import numpy as np
from numpy.typing import NDArray

from block.errors import StateError
from block.messages import Columns, RequestFacts
from block.simulation.columns import COMPUTED, FIELDS, GENERATED, IN_FLIGHT, NEWEST, PLACEHOLDERS
from block.types import EngineLimits

Column = NDArray[np.int32]
Floats = NDArray[np.float64]
COLUMN_NAMES = Columns.__struct_fields__
CONSTANT_NAMES = FIELDS[len(COLUMN_NAMES) :][:3]
"""The rows after the feed's columns: what the facts of a request say."""

_columns_of = attrgetter(*COLUMN_NAMES)
_constants_of = attrgetter(*CONSTANT_NAMES)
_PROMPT, _MAX_TOKENS, _ = range(3)


@dataclass(frozen=True, slots=True)
class QueueOrder:
    """The requests of a queue. Rebuilt only when the order changes."""

    name: str
    """Field of the feed's messages, for errors."""
    facts: tuple[RequestFacts, ...]
    ids: tuple[str, ...]
    handles: tuple[int, ...]
    arrival_s: Floats
    constants: NDArray[np.int64]
    """(len(CONSTANT_NAMES), requests)"""

    @classmethod
    def read(cls, name: str, handles: bytes, known: Mapping[int, RequestFacts]) -> Self:
        """From packed handles; raises StateError for one that is unknown."""
        listed = unpacked(name, handles).tolist()
        strangers = [handle for handle in listed if handle not in known]
        if strangers:
            raise StateError(f"{name}: unknown handle {strangers[0]}")
        facts = tuple([known[handle] for handle in listed])
        constants = np.array([_constants_of(item) for item in facts], np.int64)
        return cls(
            name=name,
            facts=facts,
            ids=tuple([item.id for item in facts]),
            handles=tuple(listed),
            arrival_s=np.array([item.arrival_s for item in facts], np.float64),
            constants=np.ascontiguousarray(constants.reshape(len(facts), len(CONSTANT_NAMES)).T),
        )


@dataclass(frozen=True, slots=True)
class MirrorQueue:
    """An order with its columns, as many as they have to be; see ``check``."""

    order: QueueOrder
    columns: Columns
    """As they came."""
    numbers: Column
    """(len(COLUMN_NAMES), requests)"""

    @classmethod
    def read(cls, order: QueueOrder, columns: Columns) -> Self:
        """From packed columns; raises StateError that names the column."""
        packed = _columns_of(columns)
        size = 4 * len(order.facts)
        if any(len(column) != size for column in packed):
            _refuse_sizes(order, columns)
        numbers = np.frombuffer(b"".join(packed), dtype="<i4").reshape(len(packed), len(order.facts))
        return cls(order, columns, numbers)

    def blocks(self, block_size: int) -> int:
        """Blocks that the computed tokens fill, if no two requests share any."""
        return int(np.sum(-(-self.numbers[COMPUTED] // block_size), dtype=np.int64))

    def check(self, limits: EngineLimits) -> None:
        """Raises StateError that names the column and the request that cannot be."""
        if not self.order.facts:
            return
        self._refuse_negative()
        numbers, constants = self.numbers, self.order.constants
        computed, generated = numbers[COMPUTED], numbers[GENERATED]
        total = constants[_PROMPT] + generated
        self._refuse("generated", generated > constants[_MAX_TOKENS], "more than max_tokens")
        self._refuse("generated", total > limits.max_model_len, "does not fit beside the prompt")
        self._refuse("computed", computed > total + numbers[PLACEHOLDERS], "more than the request has tokens")
        self._refuse("newest", numbers[NEWEST] > numbers[IN_FLIGHT], "more than are in flight")
        capacity = limits.total_blocks * limits.block_size
        self._refuse("computed", computed > capacity, f"more than all blocks hold ({capacity})")

    def _refuse_negative(self) -> None:
        if self.numbers.min() >= 0:
            return
        for name, column in zip(COLUMN_NAMES, self.numbers, strict=True):
            _refuse_negative(f"{self.order.name}_columns.{name}", column)

    def _refuse(self, column: str, wrong: NDArray[np.bool_], why: str) -> None:
        if wrong.any():
            index = int(np.argmax(wrong))
            value = self.numbers[COLUMN_NAMES.index(column), index]
            raise StateError(
                f"{self.order.name}_columns.{column}: {value} for request {self.order.facts[index].id}: {why}"
            )


def unpacked(name: str, data: bytes) -> Column:
    """Little-endian int32 values; raises StateError for a negative or a cut-off one."""
    _refuse_cut_off(name, data)
    values = np.frombuffer(data, dtype="<i4")
    _refuse_negative(name, values)
    return values


def _refuse_cut_off(name: str, data: bytes) -> None:
    if len(data) % 4:
        raise StateError(f"{name}: {len(data)} bytes are no whole int32 values")


def _refuse_negative(name: str, values: Column) -> None:
    if len(values) and int(values.min()) < 0:
        raise StateError(f"{name}: {int(values.min())} must not be negative")


def _refuse_sizes(order: QueueOrder, columns: Columns) -> None:
    for name in COLUMN_NAMES:
        field, data = f"{order.name}_columns.{name}", getattr(columns, name)
        _refuse_cut_off(field, data)
        if len(data) != 4 * len(order.facts):
            raise StateError(f"{field}: {len(data) // 4} values for {len(order.facts)} requests")

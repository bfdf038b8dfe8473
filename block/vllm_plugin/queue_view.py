"""One queue of the engine as the feed last published it; tells what a new view of it changes."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence

from vllm.v1.request import Request

from block.messages import Columns
from block.vllm_plugin.capture import QueueColumns


class QueueView:
    """Handles and columns, packed, and the requests they stand for."""

    def __init__(self) -> None:
        self.handles = b""
        self.columns = Columns()
        self._stored: list[Request] = []
        self.requests: Sequence[Request] = ()
        """In the order of ``handles``."""

    def differs(self, stored: list[Request]) -> bool:
        """Whether the engine's own list is another one than last time; compares identities."""
        return stored != self._stored

    def reorder(self, stored: list[Request], ordered: Sequence[Request], handles: dict[str, int]) -> bytes:
        """Take over a changed queue; returns its packed handles."""
        self._stored, self.requests = stored, ordered
        self.handles = packed(handles[request.request_id] for request in ordered)
        return self.handles

    def renew(self, columns: Columns) -> Columns | None:
        """Take over the columns; None if they are what they were."""
        if columns == self.columns:
            return None
        self.columns = columns
        return columns

    def waiting_columns(self, preempted: list[Request], counters: QueueColumns) -> Columns:
        """Columns for a waiting queue, where all but ``preempted`` have zeros."""
        zeros = bytes(4 * len(self.requests))
        if not preempted:
            return Columns(zeros, zeros, zeros, zeros)
        place = {request.request_id: index for index, request in enumerate(self.requests)}
        columns = [[0] * len(self.requests) for _ in counters]
        for source, request in enumerate(preempted):
            for column, values in zip(columns, counters, strict=True):
                column[place[request.request_id]] = values[source]
        return Columns(*map(packed, columns))


def packed(values: Iterable[int]) -> bytes:
    """As little-endian int32, the feed's form of a column."""
    column = array("i", values)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()

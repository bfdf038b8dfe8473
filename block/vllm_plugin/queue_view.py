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

    def waiting_columns(
        self, preempted: list[Request], counters: QueueColumns, newest: dict[str, int]
    ) -> Columns:
        """Columns for a waiting queue, where all but ``preempted`` have zeros."""
        if not preempted:
            zeros = bytes(4 * len(self.requests))
            return Columns(zeros, zeros, zeros, zeros, zeros)
        place = {request.request_id: index for index, request in enumerate(self.requests)}
        spread = []
        for values in (*counters, newest_column(preempted, newest)):
            column = [0] * len(self.requests)
            for request, value in zip(preempted, values, strict=True):
                column[place[request.request_id]] = value
            spread.append(packed(column))
        return Columns(*spread)


def running_columns(running: list[Request], counters: QueueColumns, newest: dict[str, int]) -> Columns:
    """Columns for the running queue."""
    return Columns(*map(packed, (*counters, newest_column(running, newest))))


def newest_column(requests: list[Request], newest: dict[str, int]) -> list[int]:
    """Tokens of the newest step under way, per request."""
    return [newest.get(request.request_id, 0) for request in requests]


def packed(values: Iterable[int]) -> bytes:
    """As little-endian int32, the feed's form of a column."""
    column = array("i", values)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()

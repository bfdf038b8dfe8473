"""One request's record: what is noted of it on its way."""

from __future__ import annotations

import time
from typing import Protocol

import msgspec

from block.types import Prediction
from global_scheduler.decision import Decision
from global_scheduler.fleet import Instance

_CLASSES = tuple(f"{hundreds}xx" for hundreds in range(10))


class Trace(Protocol):
    """Whoever tells of one request's way to a collector of traces."""

    def attempt(self, instance: Instance, lines: bytes) -> bytes:
        """It is sent to ``instance``: the headers to send, which name the trace to the engine."""
        ...

    def attempted(self, failure: str | None) -> None:
        """That attempt is over, by its first byte or by a failure."""
        ...

    def end(self, receipt: Receipt) -> None:
        """The request is over."""
        ...


class Receipt(msgspec.Struct, eq=False):
    """One request's record, filled in as it goes. Times are of ``time.perf_counter``."""

    id: str
    """The client's."""
    fleet_id: str
    """What instances and predictors know it by."""
    path: bytes = b""
    model: str = ""
    prompt_json: bytes = b""
    """Only if it is to be recorded; on one line."""
    policy: str = "none"
    instance: str = "none"
    status: int = 0
    """Of the answer's head; 0 if none was sent."""
    attempts: int = 0
    decision: Decision | None = None
    prediction: Prediction | None = None
    """For the instance that served it."""
    broken: bool = False
    """Failed after its first byte."""
    gone: bool = False
    """The client left."""
    streamed: bool = False
    started_s: float = msgspec.field(default_factory=time.perf_counter)
    dispatched_s: float | None = None
    waited_s: float = 0.0
    """For instances, until the answer's head."""
    first_byte_s: float | None = None
    overhead_s: float | None = None
    """From the start to the answer's head, without the waits."""
    ended_s: float = 0.0
    output_tokens: int | None = None
    """Of the answer, where they were counted."""
    trace: Trace | None = None
    """None unless this request is traced."""

    @property
    def outcome(self) -> str:
        """Status class, or why there is none."""
        if self.gone:
            return "gone"
        return "broken" if self.broken else _CLASSES[self.status // 100]

    @property
    def ttft_s(self) -> float | None:
        """From the dispatch to the first byte that may be passed on."""
        if self.first_byte_s is None or self.dispatched_s is None:
            return None
        return self.first_byte_s - self.dispatched_s

    @property
    def e2e_s(self) -> float | None:
        """From the dispatch to the end."""
        return None if self.dispatched_s is None else self.ended_s - self.dispatched_s

    @property
    def total_s(self) -> float:
        """From the start to the end."""
        return self.ended_s - self.started_s

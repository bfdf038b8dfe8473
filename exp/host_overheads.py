"""What a request costs outside the forward pass: the front end on its way in and out, the engine's own work.

Measured where a client's log and an engine's journal of the same time meet: both keep the machine's
monotonic clock. Constants, not distributions: means by prompt length and batch size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np

from block.errors import PackError
from block.latency.least_squares import Floats
from exp.run_log import RequestLog, RunLog

_LONGEST_S = 0.5
"""What takes longer is no overhead but a pause."""
_FEWEST = 8


class HostOverheads(msgspec.Struct, frozen=True):
    """Seconds on the host. A straight line each, over prompt tokens or over the batch's requests."""

    way_in_s: float = 0.0
    """From a client's sending to the submission of a first batch, by an engine that was idle."""
    way_in_per_token_s: float = 0.0
    """Of the prompt: mostly its tokenisation."""
    first_out_s: float = 0.0
    """From a batch's end to a client's sight of a first token."""
    way_out_s: float = 0.0
    """The same of a later token."""
    way_out_per_request_s: float = 0.0
    """For each request in the batch, for both: their answers are sent one after the other."""
    engine_s: float = 0.0
    """The engine's own time between a batch's end and the next submission."""
    engine_per_request_s: float = 0.0

    def way_in(self, prompt_tokens: int) -> float:
        """From a client's sending to the engine's queue."""
        return self.way_in_s + self.way_in_per_token_s * prompt_tokens

    def way_out(self, requests: int, *, first: bool) -> float:
        """From the end of a batch to the client."""
        base_s = self.first_out_s if first else self.way_out_s
        return base_s + self.way_out_per_request_s * requests

    def engine(self, requests: int) -> float:
        """From the end of a batch to the next one's submission."""
        return self.engine_s + self.engine_per_request_s * requests

    def save(self, path: Path) -> None:
        """Write a small JSON file."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def load(cls, path: Path) -> HostOverheads:
        """Read the file; raises PackError that names it."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise PackError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        except msgspec.MsgspecError as error:
            raise PackError(f"{path}: not a file of host overheads ({error})") from error

    @classmethod
    def beside(cls, pack: Path) -> Path:
        """Where the overheads lie that were measured with a pack."""
        return pack.with_name(f"{pack.stem}.host.json")


@dataclass(frozen=True)
class StepTimes:
    """Batches of one recording, on the monotonic clock, in order."""

    submit_s: Floats
    ready_s: Floats
    host_s: Floats
    """NaN where the engine was idle before."""
    requests: Floats


def measure_overheads(runs: Sequence[RunLog], steps: StepTimes) -> HostOverheads:
    """From clients' logs and the batches of the same time; what was never seen is 0."""
    requests = [(run.header.start_monotonic_s, each) for run in runs for each in run.good]
    way_in = _line(_ways_in(requests, steps))
    later = _line(_ways_out(requests, steps, first=False))
    first = [(n, s - later[1] * n) for n, s in _ways_out(requests, steps, first=True)]
    known = np.isfinite(steps.host_s)
    engine = _line(zip(steps.requests[known], steps.host_s[known], strict=True))
    return HostOverheads(*way_in, _trimmed_mean([s for _, s in first]), *later, *engine)


def _ways_in(requests: Iterable[tuple[float, RequestLog]], steps: StepTimes) -> Iterable[tuple[float, float]]:
    """(prompt tokens, seconds) of requests that met an idle engine and nobody else on the way.

    In a crowd, the front end is busy with the others: what one of it waits is not the way's own time.
    """
    in_order = sorted(requests, key=lambda pair: pair[0] + pair[1].sent_s)
    sent = [*(start_s + request.sent_s for start_s, request in in_order), math.inf]
    busy_until_s = -math.inf
    for (start_s, request), (sent_s, next_s) in zip(in_order, pairwise(sent), strict=True):
        after = int(np.searchsorted(steps.submit_s, sent_s))
        idle = after < len(steps.submit_s) and (after == 0 or steps.ready_s[after - 1] < sent_s)
        if idle and busy_until_s < sent_s and steps.requests[after] == 1:
            submit_s = float(steps.submit_s[after])
            if submit_s < next_s and submit_s - sent_s < _LONGEST_S:
                yield request.prompt_tokens, submit_s - sent_s
        busy_until_s = max(busy_until_s, start_s + request.token_s[-1])


def _ways_out(
    requests: Iterable[tuple[float, RequestLog]], steps: StepTimes, *, first: bool
) -> Iterable[tuple[float, float]]:
    """(requests in the batch, seconds) of tokens, each taken for one of the newest batch before it."""
    for start_s, request in requests:
        chosen = request.token_s[:1] if first else request.token_s[1:]
        came_s = np.asarray(chosen) + start_s
        batch = np.searchsorted(steps.ready_s, came_s) - 1
        for index, at_s in zip(batch.tolist(), came_s.tolist(), strict=True):
            if index >= 0 and at_s - steps.ready_s[index] < _LONGEST_S:
                yield float(steps.requests[index]), at_s - steps.ready_s[index]


def _line(points: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Base and slope, neither negative, through the trimmed mean of the points."""
    pairs = np.array(list(points), dtype=np.float64).reshape(-1, 2)
    pairs = pairs[pairs[:, 1] <= _upper(pairs[:, 1])] if len(pairs) else pairs
    if not len(pairs):
        return 0.0, 0.0
    x, y = pairs.T
    slope = 0.0
    if len(pairs) >= _FEWEST and x.std() > 0:
        slope = max(0.0, float(np.cov(x, y, bias=True)[0, 1] / x.var()))
    slope = min(slope, float(y.mean() / max(x.mean(), 1e-12)))
    return float(y.mean() - slope * x.mean()), slope


def _trimmed_mean(values: Sequence[float]) -> float:
    seconds = np.asarray(values, dtype=np.float64)
    return max(0.0, float(seconds[seconds <= _upper(seconds)].mean())) if len(seconds) else 0.0


def _upper(values: Floats) -> float:
    """Above it lie the pauses of a shared machine."""
    low, high = np.percentile(values, [50, 90])
    return float(high + 2.0 * (high - low))

"""Decision receipts: a line of JSON for each request, with what was known, what was chosen, what came of it.

Written by the scheduler, read by experiments. Fields with their defaults are left out of a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from block.errors import ReceiptError
from block.types import EngineLoad, Prediction

RECEIPT_VERSION = 1


class ReceiptCandidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """An instance as the policy saw it."""

    name: str
    outstanding: int = 0
    """Requests that this scheduler had sent there and that were not over."""
    outstanding_tokens: int = 0
    cached_tokens: int = 0
    prediction: Prediction | None = None
    load: EngineLoad | None = None


class DecisionReceipt(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One request. Times of day are Unix time; what was not reached is None."""

    version: int
    time_s: float
    """When it came."""
    id: str
    """The client's."""
    fleet_id: str
    """What instances and predictors know it by."""
    path: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    expected_tokens: int | None = None
    """Of the response, as estimated; ``expected_quantiles`` holds (probability, tokens)."""
    expected_quantiles: tuple[tuple[float, float], ...] = ()
    expected_by: str = ""
    """Estimator of the response's length, and its version: ``history`` where another was late or failed."""
    max_tokens: int | None = None

    policy: str = "none"
    candidates: tuple[ReceiptCandidate, ...] = ()
    choice: str | None = None
    ranking: tuple[str, ...] = ()
    """The others, next best first."""
    reason: str | None = None
    """In the words of the policy."""
    fallback: str | None = None
    decision_s: float | None = None

    instance: str = "none"
    """Who served it in the end."""
    attempts: int = 0
    outcome: str
    """Class of the status, as in 2xx; or broken, or gone."""
    status: int
    overhead_s: float | None = None
    """This service's own part of the time to the answer's head."""
    ttft_s: float | None = None
    """From the dispatch; of an answer that is no stream, to its end."""
    e2e_s: float | None = None
    """From the dispatch to the end."""
    total_s: float
    """From the request's arrival to the end."""
    output_tokens: int | None = None
    """Of the response, where it could be counted."""
    prompt: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """Only if it was asked for."""

    @property
    def prediction(self) -> Prediction | None:
        """What was predicted of the instance that served it."""
        return next((each.prediction for each in self.candidates if each.name == self.instance), None)


_LINE = msgspec.json.Decoder(DecisionReceipt)


def read_receipts(file: Path) -> Iterator[DecisionReceipt]:
    """All in the file, in the order in which their requests ended; a last line without its end is skipped.

    Raises ReceiptError that names the line.
    """
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.endswith(b"\n"):
                    yield _receipt(file, number, line)
    except OSError as error:
        raise ReceiptError(f"{file}: cannot be read ({error.strerror}); check the path") from error


def _receipt(file: Path, number: int, line: bytes) -> DecisionReceipt:
    try:
        receipt = _LINE.decode(line)
    except (ValueError, RecursionError) as error:
        raise ReceiptError(f"{file}, line {number}: no decision receipt ({error})") from error
    if receipt.version != RECEIPT_VERSION:
        raise ReceiptError(f"{file}, line {number}: version {receipt.version}; known: {RECEIPT_VERSION}")
    return receipt

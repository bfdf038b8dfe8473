"""``block-length tag``: adds predicted lengths to a data set's rows, all else as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from block.errors import PackError
from length_estimation.batcher import BatchEstimator, OneByOne
from length_estimation.dataset import (
    UNLIMITED,
    Prompts,
    data_file,
    exchanges_of,
    read_rows,
)
from length_estimation.estimator import EstimationRequest, LengthEstimate
from length_estimation.factory import load_trained
from length_estimation.model_folder import check_counting
from length_estimation.out_file import check_out
from length_estimation.token_counter import TokenCounter, make_token_counter

_ROWS: Final = 32
"""Rows that are read, and requests that are estimated, together."""


def tag(
    model: Path,
    data: Sequence[Path],
    out: Path,
    max_tokens: int,
    tokenizer: Path | None = None,
    on_rows: Callable[[int], None] = lambda _: None,
) -> int:
    """Write the tagged rows; returns how many, as ``on_rows`` hears meanwhile.

    Raises PackError that names model, row or file, ConfigError for another tokenizer than in training.
    """
    check_out(data, out)
    check_counting(model, tokenizer)
    estimator = load_trained(model)
    batches = estimator if isinstance(estimator, BatchEstimator) else OneByOne(estimator)
    questions = _questions(data, make_token_counter(tokenizer), max_tokens)
    rows = 0
    with out.open("wb") as file:
        while some := list(islice(questions, _ROWS)):
            said = _estimates(batches, [request for _, asked in some for request in asked])
            for row, asked in some:
                listed = isinstance(row.get("conversations", row.get("messages")), list)
                fields = _fields(list(islice(said, len(asked))), listed)
                file.write(msgspec.json.encode(row | fields) + b"\n")
            rows += len(some)
            on_rows(rows)
    if not rows:
        raise PackError(f"{', '.join(map(str, data))}: no row in it")
    return rows


def _questions(
    data: Sequence[Path], counter: TokenCounter, max_tokens: int
) -> Iterator[tuple[dict[str, Any], list[EstimationRequest]]]:
    """Each row with the requests in it."""
    for path in data:
        prompts: Prompts = {}
        for place, row in read_rows(data_file(path)):
            try:
                asked = [exchange.request for exchange in exchanges_of(row, counter, prompts)]
            except (TypeError, ValueError, AttributeError) as error:
                raise PackError(f"{place}: not a row with a prompt ({error})") from error
            yield row, [_limited(request, max_tokens) for request in asked]


def _estimates(batches: BatchEstimator, requests: list[EstimationRequest]) -> Iterator[LengthEstimate]:
    for start in range(0, len(requests), _ROWS):
        yield from batches.estimate_all(requests[start : start + _ROWS])


def _limited(request: EstimationRequest, max_tokens: int) -> EstimationRequest:
    if request.max_tokens < UNLIMITED:
        return request
    return EstimationRequest(
        request.prompt_tokens,
        max_tokens,
        prompt_json=request.prompt_json,
        model=request.model,
        temperature=request.temperature,
    )


def _fields(said: list[LengthEstimate], listed: bool) -> dict[str, Any]:
    tokens = [max(1, round(estimate.mean_tokens)) for estimate in said]
    quantiles = [estimate.quantiles for estimate in said]
    by = f"{said[0].source}-{said[0].version}" if said else None
    if not listed and said:
        return {"predicted_tokens": tokens[0], "predicted_quantiles": quantiles[0], "predicted_by": by}
    return {"predicted_tokens": tokens, "predicted_quantiles": quantiles, "predicted_by": by}

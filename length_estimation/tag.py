"""``block-length tag``: adds predicted lengths to a data set's rows, all else as it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from block.errors import PackError
from length_estimation.dataset import UNLIMITED, Prompts, data_file, exchanges_of, read_rows
from length_estimation.estimator import EstimationRequest, LengthEstimate
from length_estimation.factory import load_trained
from length_estimation.token_counter import make_token_counter


def tag(model: Path, data: Sequence[Path], out: Path, max_tokens: int) -> int:
    """Write the tagged rows; returns how many. Raises PackError that names model, row or file."""
    estimator = load_trained(model)
    counter = make_token_counter(None)
    rows = 0
    with out.open("wb") as file:
        for path in data:
            prompts: Prompts = {}
            for place, row in read_rows(data_file(path)):
                try:
                    asked = [exchange.request for exchange in exchanges_of(row, counter, prompts)]
                except (TypeError, ValueError, AttributeError) as error:
                    raise PackError(f"{place}: not a row with a prompt ({error})") from error
                said = [estimator.estimate(_limited(request, max_tokens)) for request in asked]
                listed = isinstance(row.get("conversations", row.get("messages")), list)
                file.write(msgspec.json.encode(row | _fields(said, listed)) + b"\n")
                rows += 1
    return rows


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

"""``block-length bench``: what one estimate costs on one core."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from length_estimation.batcher import BatchEstimator
from length_estimation.dataset import read_examples, require_prompts
from length_estimation.estimator import EstimationRequest, Estimator
from length_estimation.factory import load_trained
from length_estimation.token_counter import make_token_counter

WORDS: Final = (16, 48, 64, 128, 256)
"""Of the prompts that are made up; an encoder reads one token or more for each."""
_BATCH: Final = 32
_LIMIT: Final = 4096
_COMMON: Final = "the of and to write a story about how we can make this work for you with code"


def bench(model: Path, prompts: Path | None, calls: int, threads: int = 1) -> dict[str, Any]:
    """Milliseconds by size, and estimates per second in batches. Raises PackError for a damaged model."""
    estimator = load_trained(model, threads)
    if prompts is not None:
        examples = read_examples(prompts, make_token_counter(None))[:calls]
        require_prompts(examples)
        return {"prompts": _timed(estimator, [example.request for example in examples])}
    made = {f"{words} words": _made_up(words, calls) for words in WORDS}
    found: dict[str, Any] = {size: _timed(estimator, requests) for size, requests in made.items()}
    if isinstance(estimator, BatchEstimator):
        for size, requests in made.items():
            started_s = time.perf_counter()
            for start in range(0, calls, _BATCH):
                estimator.estimate_all(requests[start : start + _BATCH])
            found[size]["batched_per_s"] = round(calls / (time.perf_counter() - started_s), 1)
    return found


def _timed(estimator: Estimator, requests: list[EstimationRequest]) -> dict[str, float]:
    for request in requests[:3]:
        estimator.estimate(request)
    took_ms = []
    for request in requests:
        started_s = time.perf_counter()
        estimator.estimate(request)
        took_ms.append((time.perf_counter() - started_s) * 1000)
    p50, p99 = np.percentile(took_ms, [50, 99])
    return {"p50_ms": round(float(p50), 4), "p99_ms": round(float(p99), 4)}


def _made_up(words: int, count: int) -> list[EstimationRequest]:
    """Prompts of common words, each its own."""
    draw = np.random.default_rng(words)
    common = np.array(_COMMON.split())
    texts = [" ".join(draw.choice(common, words)) for _ in range(count)]
    return [EstimationRequest(words, _LIMIT, prompt_json=json.dumps(text).encode()) for text in texts]

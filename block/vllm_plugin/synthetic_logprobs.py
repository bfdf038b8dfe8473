"""Well-formed log-probabilities for synthetic tokens: the chosen one likeliest, each next half as likely.

Shapes and column order are those of vLLM's sampler: the chosen token first, then the top k in rank order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from vllm.v1.outputs import LogprobsLists, LogprobsTensors


def token_ids_and_logprobs(chosen: Sequence[int], alternatives: int, vocabulary_size: int) -> tuple[Any, Any]:
    """Two arrays of shape [len(chosen), alternatives + 1]: int32 ids and float32 log-probabilities."""
    first = np.asarray(chosen, dtype=np.int32).reshape(-1, 1)
    top = (first + np.arange(alternatives, dtype=np.int32)) % vocabulary_size
    halvings = np.concatenate(([1], np.arange(1, alternatives + 1))).astype(np.float32)
    logprobs = np.broadcast_to(-math.log(2.0) * halvings, (len(first), alternatives + 1))
    return np.hstack((first, top)).astype(np.int32), logprobs.copy()


def sampled_logprobs(rows: Sequence[list[int]], alternatives: int, vocabulary_size: int) -> LogprobsLists:
    """For one step; ``rows`` are the sampled tokens per request, one at most (none mid-prefill)."""
    chosen = [row[0] if row else 0 for row in rows]
    ids, logprobs = token_ids_and_logprobs(chosen, alternatives, vocabulary_size)
    return LogprobsLists(ids, logprobs, np.ones(len(chosen), dtype=np.int32), None)


def prompt_logprobs(prompt: Sequence[int], alternatives: int, vocabulary_size: int) -> LogprobsTensors:
    """For a whole prompt: one row per token after the first."""
    ids, logprobs = token_ids_and_logprobs(prompt[1:], alternatives, vocabulary_size)
    tensors = LogprobsTensors.empty_cpu(len(ids), alternatives + 1)
    tensors.logprob_token_ids.numpy()[:] = ids
    tensors.logprobs.numpy()[:] = logprobs
    tensors.selected_token_ranks.numpy()[:] = 1
    return tensors

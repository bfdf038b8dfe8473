"""aiconfigurator's collection of measured servers: which points there are, and how they were measured.

    silicon_sample_agg.csv    id, backend, system, model_path, gemm_quant_mode, isl, osl, batch_size, tp_size,
                              silicon_ttft_ms, silicon_tpot_ms

Two campaigns, told apart by their ids. Both let so many users ask again as soon as they are answered, ten
times each, on a server that was warmed up and is idle at the beginning, and take means over all requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exp.closed_loop import UserLoad
from vidur_adapter.sources import SYSTEMS
from vidur_adapter.table_file import TableFile

MODELS: Mapping[str, str] = {
    "Qwen/Qwen3-32B": "qwen3-32b",
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
}
"""The collection's dense models by our names; mixtures of experts have no kernel tables here."""
_PRECISIONS: Mapping[str, str] = {"": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block"}
_TEXTS = ("id", "system", "model_path", "backend", "gemm_quant_mode")
_NUMBERS = ("tp_size", "batch_size", "isl", "osl", "silicon_ttft_ms", "silicon_tpot_ms")


@dataclass(frozen=True, slots=True)
class Campaign:
    """How some points were measured."""

    name: str
    shortest: float
    """Lengths lie evenly between this share of the stated ones and the stated ones."""
    cache_precision: str
    """Of keys and values."""
    batched_tokens: Callable[[UserLoad], int]
    """Budget of one step."""


INFERENCE_MAX = Campaign("InferenceMAX", 0.8, "fp8", lambda _: 8192)
"""``--num-prompts 10*CONC --random-range-ratio 0.8 --request-rate inf``; servers of dense models with
``kv-cache-dtype: fp8``, ``max-num-batched-tokens: 8192``, ``--max-num-seqs CONC``, no prefix cache."""
OWN_TRIALS = Campaign("aiconfigurator", 1.0, "bfloat16", lambda load: load.users + load.prompt_tokens + 1500)
"""aiperf with ten requests per user and lengths as stated, no prefix cache; the budget is the rule by which
aiconfigurator writes its servers' flags. The cache is taken to be in bfloat16."""
_INFERENCE_MAX_ID = re.compile(r"^\d{4}_\d\d_\d\d_|_cfg\d+$")
_NO_USERS_ID = re.compile(r"_c_")


@dataclass(frozen=True, slots=True)
class Point:
    """One measured server."""

    campaign: Campaign
    gpu: str
    model: str
    backend: str
    precision: str
    devices: int
    load: UserLoad
    ttft_s: float
    tpot_s: float


def read_points(path: Path) -> tuple[tuple[Point, ...], dict[str, int]]:
    """Points on GPUs and models that there are tables for; why others were left out, and how many.

    Raises PackError that names file, column and row.
    """
    table = TableFile.load(path, (*_TEXTS, *_NUMBERS))
    texts = zip(*(table.texts(name) for name in _TEXTS), strict=True)
    numbers = zip(*(table.numbers(name).tolist() for name in _NUMBERS), strict=True)
    found, left_out = [], dict[str, int]()
    for row in zip(texts, numbers, strict=True):
        point = _point(*row)
        if isinstance(point, Point):
            found.append(point)
        else:
            left_out[point] = left_out.get(point, 0) + 1
    return tuple(found), left_out


def _point(texts: tuple[str, ...], numbers: tuple[float, ...]) -> Point | str:
    """Or why it is left out."""
    gpus = {system: gpu for gpu, system in SYSTEMS.items()}
    name, system, model, backend, precision = texts
    devices, users, prompt, output, ttft_ms, tpot_ms = numbers
    if not np.isfinite(numbers).all() or min(devices, users, prompt, ttft_ms, tpot_ms) <= 0 or output < 2:
        return "incomplete"
    if system not in gpus:
        return f"{system}: no kernel tables of this GPU"
    if model not in MODELS:
        return f"{model}: no dense model that there are dimensions of"
    if precision not in _PRECISIONS:
        return f"{precision}: no kernel tables of this precision"
    if _NO_USERS_ID.search(name):
        return "number of users not said"
    campaign = INFERENCE_MAX if _INFERENCE_MAX_ID.search(name) else OWN_TRIALS
    load = UserLoad(int(users), int(prompt), int(output), shortest=campaign.shortest)
    served = (gpus[system], MODELS[model], backend, _PRECISIONS[precision], int(devices))
    return Point(campaign, *served, load, ttft_ms / 1e3, tpot_ms / 1e3)

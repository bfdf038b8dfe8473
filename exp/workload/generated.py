"""Workloads for machines without data: lengths from distributions fitted to published statistics.

The two lengths of a request are drawn independently, as they nearly are in the data.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from exp.workload.request import TraceRequest, Workload
from exp.workload.spec import WorkloadSpec
from exp.workload.trace import at_gamma_arrivals

Draw = Callable[[np.random.Generator], tuple[int, int]]


def generated(spec: WorkloadSpec) -> Workload:
    """ShareGPT's lengths.

    Responses: Weibull, shape 1.45, scale 360 (mean 326, median 279, p90 640, p99 1,031; published
    326, 286, 682, 1,001). Prompts: 74 % short ones, log-normal around 25.7 tokens, and 26 % pasted
    texts, log-normal around 612, cut at 4,000 (mean 239, median 35, p90 751, p99 2,859; published
    246, 35, 761, 2,863).
    """
    return _workload("generated from ShareGPT's published statistics", _sharegpt, spec)


def generated_burstgpt(spec: WorkloadSpec) -> Workload:
    """BurstGPT's lengths, as far as they are published.

    Published are the means, 763 tokens of prompt and 348 of response (vLLM's benchmarks, GPT-4 without
    failures). The shapes are assumptions: log-normal prompts with sigma 1, Weibull responses of shape 1.2.
    """
    return _workload("generated with BurstGPT's published mean lengths", _burstgpt, spec)


def generated_mix(spec: WorkloadSpec) -> Workload:
    """Three kinds on one fleet: chat, long documents with short answers, short tasks with long answers.

    70 % are ShareGPT's; 15 % have prompts log-normal around 2,000 tokens (sigma 0.4) and Weibull answers of
    scale 150; 15 % have prompts around 60 and answers log-normal around 1,000 tokens (sigma 0.4). No trace
    is behind the shares.
    """
    return _workload("generated: chat, long documents, long answers", _mix, spec)


def _workload(source: str, draw: Draw, spec: WorkloadSpec) -> Workload:
    random = np.random.default_rng(spec.seed)
    requests: list[TraceRequest] = []
    while len(requests) < spec.count:
        pair = draw(random)
        if spec.fits(*pair):
            requests.append(TraceRequest(0.0, *pair))
    return Workload(source, at_gamma_arrivals(requests, spec, random))


def _sharegpt(random: np.random.Generator) -> tuple[int, int]:
    return _sharegpt_prompt(random), max(1, round(360.0 * random.weibull(1.45)))


def _sharegpt_prompt(random: np.random.Generator) -> int:
    while True:
        median, sigma = (25.7, 0.71) if random.random() < 0.74 else (612.0, 1.13)
        tokens = round(float(random.lognormal(np.log(median), sigma)))
        if 1 <= tokens <= 4000:
            return tokens


def _burstgpt(random: np.random.Generator) -> tuple[int, int]:
    # A log-normal's mean is its median times exp(sigma^2 / 2); a Weibull's is scale times gamma(1 + 1/shape).
    prompt = round(float(random.lognormal(np.log(763.0) - 0.5, 1.0)))
    return max(1, prompt), max(1, round(348.0 / 0.9407 * float(random.weibull(1.2))))


def _mix(random: np.random.Generator) -> tuple[int, int]:
    kind = random.random()
    if kind < 0.7:
        return _sharegpt(random)
    if kind < 0.85:
        document = round(float(random.lognormal(np.log(2000.0), 0.4)))
        return max(1, document), max(1, round(150.0 * float(random.weibull(1.4))))
    task, answer = random.lognormal(np.log(60.0), 0.6), random.lognormal(np.log(1000.0), 0.4)
    return max(1, round(float(task))), max(1, round(float(answer)))

"""Steps of an imagined engine under mixed traffic, timed by a latency that only the test knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from block.types import BatchShape, StepRecord

Seconds = Callable[[BatchShape], float]


@dataclass
class Traffic:
    """Continuous batching in small: prompts in chunks beside decodes, and now and then nothing to do."""

    seed: int
    rate_per_s: float = 3.0
    prompt_tokens: int = 300
    output_tokens: int = 150
    chunk: int = 512
    max_seqs: int = 48
    noise: float = 0.01
    gap_s: float = 0.0
    """From a step's end to the next submission while there is work."""
    pauses: float = 0.0
    """Share of steps that a 2 s pause hits."""

    def records(self, seconds: Seconds, duration_s: float, start_s: float = 1000.0) -> Iterator[StepRecord]:
        """Steps until ``duration_s`` have passed."""
        random = np.random.default_rng(self.seed)
        now_s, end_s, step = start_s, 0.0, 0
        arrival_s = now_s
        requests: list[list[int]] = []  # prompt left, computed, output left
        while now_s < start_s + duration_s:
            while arrival_s <= now_s:
                prompt = max(2, int(random.lognormal(np.log(self.prompt_tokens), 0.8)))
                requests.append([prompt, 0, max(1, int(random.exponential(self.output_tokens)))])
                arrival_s += random.exponential(1 / self.rate_per_s)
            if not requests:
                now_s = arrival_s
                continue
            shape = self._step(requests[: self.max_seqs])
            step += 1
            duration = seconds(shape) * float(np.exp(random.normal(0, self.noise)))
            if random.random() < self.pauses:
                duration += 2.0
            end_s = now_s + duration
            yield StepRecord(step, now_s, end_s, duration, shape)
            requests = [request for request in requests if request[2] > 0]
            now_s = end_s + self.gap_s

    def _step(self, requests: list[list[int]]) -> BatchShape:
        budget, pairs = self.chunk, []
        for request in requests:
            tokens = min(request[0] or 1, budget)
            if tokens == 0:
                break
            budget -= tokens
            request[1] += tokens
            if request[0]:
                request[0] -= tokens
            if not request[0]:
                request[2] -= 1
            pairs.append((tokens, request[1]))
        return BatchShape.of(pairs)

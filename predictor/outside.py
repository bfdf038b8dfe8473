"""What a request spends outside of the engine: HTTP, tokenisation, the ways to the engine's core and back.

The feed does not show it; routers tell when an answer's first byte came, and what is beyond the engine's
part is learned as a median, since single requests differ by much more than it. Knows no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque

import numpy as np

REMEMBERED = 4096
"""Questions remembered until their outcome is told; most are asked elsewhere too and never come here."""
SAMPLES = 64
_FEWEST = 8
_LONGEST_TTFT_S = 3600.0
MOST_S = 1.0
"""Longer is no overhead but trouble, and not to be counted on."""


class OutsideTime:
    """Learns one instance's time outside of the engine."""

    def __init__(self) -> None:
        self._asked: OrderedDict[str, float] = OrderedDict()
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self.seconds = 0.0
        """What to add to the engine's part of TTFT and E2E."""

    def asked(self, request_id: str, engine_ttft_s: float) -> None:
        """A question was answered; ``engine_ttft_s`` without anything added."""
        self._asked[request_id] = engine_ttft_s
        self._asked.move_to_end(request_id)
        if len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)

    def served(self, request_id: str, ttft_s: float) -> None:
        """The first byte came ``ttft_s`` after the question; of no use if the question is not known."""
        engine_ttft_s = self._asked.pop(request_id, None)
        if engine_ttft_s is None or not 0.0 <= ttft_s <= _LONGEST_TTFT_S:
            return
        self._samples.append(ttft_s - engine_ttft_s)
        if len(self._samples) >= _FEWEST:
            self.seconds = float(np.clip(np.median(self._samples), 0.0, MOST_S))

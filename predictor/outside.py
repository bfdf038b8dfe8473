"""What a request spends outside of the engine: HTTP, tokenisation, the ways to the engine's core and back.

The feed does not show it; routers tell when an answer's first byte came, and what is beyond the engine's
part is learned as a median, since single requests differ by much more than it. When a request came to the
engine the feed does tell: a newcomer may miss the step that begins while it is on its way. Knows no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

import numpy as np

REMEMBERED = 4096
"""Questions remembered until their outcome is told; most are asked elsewhere too and never come here."""
SAMPLES = 64
_FEWEST = 8
_LONGEST_TTFT_S = 3600.0
MOST_S = 1.0
"""Longer is no overhead but trouble, and not to be counted on."""


class _Asked(NamedTuple):
    engine_ttft_s: float
    now_s: float


class OutsideTime:
    """Learns one instance's time outside of the engine."""

    def __init__(self) -> None:
        self._asked: OrderedDict[str, _Asked] = OrderedDict()
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self._ways_s: deque[float] = deque(maxlen=SAMPLES)
        self._way_s = 0.0
        self.seconds = 0.0
        """What to add to the engine's part of TTFT and E2E."""

    @property
    def there_s(self) -> float:
        """Of that, from a question to the request's arrival in the engine."""
        return min(self._way_s, self.seconds)

    def asked(self, request_id: str, engine_ttft_s: float, now_s: float) -> None:
        """A question was answered; ``engine_ttft_s`` without anything added."""
        self._asked[request_id] = _Asked(engine_ttft_s, now_s)
        self._asked.move_to_end(request_id)
        if len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)

    def arrived(self, request_id: str, arrival_s: float) -> None:
        """The engine has it since ``arrival_s``; of no use if the question is not known."""
        asked = self._asked.get(request_id)
        if asked is not None:
            self._ways_s.append(arrival_s - asked.now_s)
            if len(self._ways_s) >= _FEWEST:
                self._way_s = max(float(np.median(self._ways_s)), 0.0)

    def served(self, request_id: str, ttft_s: float) -> None:
        """The first byte came ``ttft_s`` after the question; of no use if the question is not known."""
        asked = self._asked.pop(request_id, None)
        if asked is None or not 0.0 <= ttft_s <= _LONGEST_TTFT_S:
            return
        self._samples.append(ttft_s - asked.engine_ttft_s)
        if len(self._samples) >= _FEWEST:
            self.seconds = float(np.clip(np.median(self._samples), 0.0, MOST_S))

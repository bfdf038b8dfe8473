"""From an engine's steps to the tokens that clients see, and when.

A request has a token at the end of each step in which its computed tokens reach all its tokens so far;
a preemption starts its computing anew. Knows nothing of who made the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from block.simulation.engine import SimulatedStep
from exp.host_overheads import HostOverheads


@dataclass(slots=True)
class _Progress:
    prompt_tokens: int
    output_tokens: int
    computed: int = 0
    token_s: list[float] = field(default_factory=list)

    def advance(self, tokens: int) -> bool:
        """Whether the step that computed ``tokens`` gave a token."""
        self.computed += tokens
        made = len(self.token_s)
        return made < self.output_tokens and self.computed >= self.prompt_tokens + made


class StepTokens:
    """Follows the steps of one engine that starts empty."""

    def __init__(
        self, lengths: Mapping[str, tuple[int, int]], total_blocks: int, host: HostOverheads
    ) -> None:
        """``lengths``: prompt and output tokens by request."""
        self.preemptions = 0
        self.kv_use_max = 0.0
        self._requests = {name: _Progress(*pair) for name, pair in lengths.items()}
        self._blocks = total_blocks
        self._host = host
        self._previous_s = 0.0
        self._previous_use = 0.0
        self._use_seconds = 0.0

    def add(self, step: SimulatedStep) -> None:
        """The next step, once its output has been applied."""
        for name in step.preempted:
            self._requests[name].computed = 0
        self.preemptions += len(step.preempted)
        for name, tokens in step.scheduled.items():
            request = self._requests[name]
            if request.advance(tokens):
                first = not request.token_s
                request.token_s.append(step.end_s + self._host.way_out(len(step.scheduled), first=first))
        self._note_use(step)

    def of(self, name: str) -> tuple[float, ...]:
        """When a request's tokens came."""
        return tuple(self._requests[name].token_s)

    @property
    def kv_use_mean(self) -> float:
        """Share of the blocks in use, over time."""
        return self._use_seconds / self._previous_s if self._previous_s > 0 else 0.0

    def _note_use(self, step: SimulatedStep) -> None:
        self._use_seconds += self._previous_use * (step.end_s - self._previous_s)
        self._previous_s = step.end_s
        self._previous_use = 1.0 - step.free_blocks / self._blocks
        self.kv_use_max = max(self.kv_use_max, self._previous_use)

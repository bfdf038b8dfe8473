"""What became of one request, as its client saw it or as it was simulated."""

from __future__ import annotations

from dataclasses import dataclass

from exp.workload import TraceRequest


@dataclass(slots=True)
class Outcome:
    """Times are from the moment the request was sent. Filled in as it goes."""

    request: TraceRequest
    policy: str
    sent_s: float = 0.0
    """From the run's start."""
    lateness_s: float = 0.0
    """How late the client itself was."""
    ttft_s: float | None = None
    e2e_s: float | None = None
    """To the last token."""
    prompt_tokens: int | None = None
    """As the server counted them."""
    output_tokens: int | None = None
    """The same."""
    token_s: tuple[float, ...] = ()
    """When each token came; tokens of one message share its time."""
    itl_s: tuple[float, ...] = ()
    """Gaps between messages that brought tokens."""
    instance: str | None = None
    predicted_ttft_s: float | None = None
    predicted_e2e_s: float | None = None
    decision_s: float | None = None
    """What the scheduler took to choose."""
    fallback: str | None = None
    error: str = ""
    """Empty when the request was answered whole."""

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first."""
        if self.e2e_s is None or self.ttft_s is None or not self.output_tokens or self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)

"""What workload is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from block.errors import ConfigError


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """What workload is wanted; raises ConfigError for numbers that make none."""

    count: int
    rate_per_s: float | None
    """Mean arrivals per second; recorded ones are stretched to it. None: recorded ones as they are."""
    data: Path
    """The optional data folder."""
    seed: int = 0
    most_tokens: int = 4000
    """Requests with more tokens of prompt and response together are left out."""
    burstiness: float = 1.0
    """Shape of gamma-distributed gaps: 1 is Poisson, less is burstier."""
    recorded_times: bool = True
    """Whether recorded arrivals are kept where there are any; else gaps are drawn for these, too."""
    tokenizer: Path | None = None
    """``tokenizer.json`` that counts the tokens of traces made of text."""
    in_order: bool = False
    """Whether a stretch of a recorded trace is taken as it is, from a place that the seed says: what prompts
    share then follows as it did."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"requests = {self.count}: must be at least 1")
        if self.rate_per_s is not None and not 0 < self.rate_per_s < float("inf"):
            raise ConfigError(
                f"rate = {self.rate_per_s}: must be above 0; leave it out for recorded arrivals"
            )
        if not 0 < self.burstiness < float("inf"):
            raise ConfigError(f"burstiness = {self.burstiness}: must be above 0; 1 is Poisson")

    def fits(self, prompt_tokens: int, output_tokens: int) -> bool:
        """Whether a request of these lengths is to be part of it."""
        return min(prompt_tokens, output_tokens) >= 1 and prompt_tokens + output_tokens <= self.most_tokens

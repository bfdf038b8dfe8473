"""What one scheduler has sent to one instance, and what it last heard of the instance's load.

Only a hint of the truth: other copies of the scheduler send there too. Memory is bounded whatever the
traffic. Knows no policy and no network; the time comes in by call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from block.types import EngineLoad
from global_scheduler.prefixes import PrefixRecord

MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Burden:
    """What a request weighs on the instance that serves it."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    """Expected."""
    prefix_digests: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Prompt and expected output together."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Tally:
    """Running totals since the start."""

    sent: int = 0
    over: int = 0
    sent_prompt_tokens: int = 0
    sent_output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Heard:
    load: EngineLoad
    tally: Tally
    """As it was when the question was sent."""
    time_s: float


class Traffic:
    """The bookkeeping for one instance."""

    def __init__(self) -> None:
        self.outstanding = 0
        """Requests sent and not over."""
        self.outstanding_tokens = 0
        """Their prompt and expected output tokens."""
        self.prefixes = PrefixRecord()
        self.tally = Tally()
        self._heard: _Heard | None = None
        self._seconds: dict[int, int] = {}
        """Second -> requests sent in it, oldest first, for the last minute."""
        self._sent_last_minute = 0

    def begin(self, burden: Burden, now_s: float) -> None:
        """A request is sent there."""
        tally = self.tally
        self.tally = Tally(
            tally.sent + 1,
            tally.over,
            tally.sent_prompt_tokens + burden.prompt_tokens,
            tally.sent_output_tokens + burden.output_tokens,
        )
        self.outstanding += 1
        self.outstanding_tokens += burden.tokens
        self.prefixes.add(burden.prefix_digests)
        self._forget_before(now_s)
        second = int(now_s)
        self._seconds[second] = self._seconds.get(second, 0) + 1
        self._sent_last_minute += 1

    def end(self, burden: Burden) -> None:
        """That request is over, however it ended."""
        self.tally = replace(self.tally, over=self.tally.over + 1)
        self.outstanding -= 1
        self.outstanding_tokens -= burden.tokens

    def sent_last_minute(self, now_s: float) -> int:
        """Requests sent in the last 60 s, counted in whole seconds."""
        self._forget_before(now_s)
        return self._sent_last_minute

    def hear(self, load: EngineLoad, asked_at: Tally, now_s: float) -> None:
        """Its predictor told its load; ``asked_at`` is the tally as it was when it was asked."""
        if self._heard is None or asked_at.sent >= self._heard.tally.sent:
            self._heard = _Heard(load, asked_at, now_s)

    def last_known_load(self, now_s: float, max_age_s: float) -> EngineLoad | None:
        """What was last heard, plus what was sent since, less what ended since.

        None if that is older than ``max_age_s``, or nothing was ever heard.
        """
        heard = self._heard
        if heard is None or now_s - heard.time_s > max_age_s:
            return None
        return _brought_up_to_date(heard.load, heard.tally, self.tally)

    def _forget_before(self, now_s: float) -> None:
        horizon = int(now_s) - MINUTE_S
        while self._seconds and (oldest := next(iter(self._seconds))) <= horizon:
            self._sent_last_minute -= self._seconds.pop(oldest)


def _brought_up_to_date(load: EngineLoad, then: Tally, now: Tally) -> EngineLoad:
    """What ended since takes its average share along: which request it was in the engine is not known."""
    present = load.running + load.waiting + load.committed
    sent, over = now.sent - then.sent, now.over - then.over
    sent_prompt_tokens = now.sent_prompt_tokens - then.sent_prompt_tokens
    sent_tokens = sent_prompt_tokens + now.sent_output_tokens - then.sent_output_tokens
    kept = max(0.0, 1 - over / max(present + sent, 1))
    used_blocks = load.total_blocks - load.free_blocks
    return EngineLoad(
        running=round(load.running * kept),
        waiting=round(load.waiting * kept),
        committed=round((load.committed + sent) * kept),
        free_blocks=load.total_blocks - round(used_blocks * kept),
        total_blocks=load.total_blocks,
        waiting_prompt_tokens=round((load.waiting_prompt_tokens + sent_prompt_tokens) * kept),
        unprocessed_tokens=round((load.unprocessed_tokens + sent_tokens) * kept),
    )

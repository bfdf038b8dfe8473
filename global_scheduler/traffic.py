"""What one scheduler has sent to one instance, and what it last heard of the instance's load.

Only a hint of the truth: other copies of the scheduler send there too. Memory is bounded whatever the
traffic. Knows no policy and no network; the time comes in by call.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from block.types import EngineLoad
from global_scheduler.prefixes import PrefixRecord

MINUTE_S = 60


class Burden(msgspec.Struct, frozen=True):
    """What a request weighs on the instance that serves it."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    """Expected."""
    prefix_digests: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Prompt and expected output together."""
        return self.prompt_tokens + self.output_tokens


class Tally(msgspec.Struct, frozen=True):
    """Running totals of requests since the start."""

    sent: int = 0
    over: int = 0


class _Heard(msgspec.Struct, frozen=True):
    load: EngineLoad
    tally: Tally
    """As it was when the question was sent."""
    time_s: float


class Traffic:
    """The bookkeeping for one instance."""

    def __init__(self) -> None:
        self.outstanding_tokens = 0
        """Prompt and expected output tokens of the requests sent and not over."""
        self.prefixes = PrefixRecord()
        self._outstanding: dict[int, Burden] = {}
        """By number, in the order in which they were sent."""
        self._sent = 0
        self._heard: _Heard | None = None
        self._unheard_since_s: float | None = None
        self._seconds: dict[int, int] = {}
        """Second -> requests sent in it, oldest first, for the last minute."""
        self._sent_last_minute = 0
        self._second = -1
        """In which the seconds were last looked through."""

    @property
    def outstanding(self) -> int:
        """Requests sent and not over."""
        return len(self._outstanding)

    @property
    def tally(self) -> Tally:
        """To be kept with a question, and given back with its answer."""
        return Tally(self._sent, self._sent - len(self._outstanding))

    def begin(self, burden: Burden, now_s: float) -> int:
        """A request is sent there; its number, by which to end it."""
        number = self._sent
        self._sent += 1
        self._outstanding[number] = burden
        self.outstanding_tokens += burden.tokens
        if burden.prefix_digests:
            self.prefixes.add(burden.prefix_digests)
        second = int(now_s)
        if second != self._second:
            self._turn_to(second)
        self._seconds[second] = self._seconds.get(second, 0) + 1
        self._sent_last_minute += 1
        return number

    def end(self, number: int) -> None:
        """The request of that number is over, however it ended."""
        self.outstanding_tokens -= self._outstanding.pop(number).tokens

    def sent_last_minute(self, now_s: float) -> int:
        """Requests sent in the last 60 s, counted in whole seconds."""
        second = int(now_s)
        if second != self._second:
            self._turn_to(second)
        return self._sent_last_minute

    def hear(self, load: EngineLoad, asked_at: Tally, now_s: float) -> None:
        """Its predictor told its load; ``asked_at`` is the tally as it was when it was asked."""
        self._unheard_since_s = None
        if self._heard is None or asked_at.sent >= self._heard.tally.sent:
            self._heard = _Heard(load, asked_at, now_s)

    def miss(self, now_s: float) -> None:
        """Its predictor left a question unanswered, or has not answered it yet."""
        if self._unheard_since_s is None:
            self._unheard_since_s = now_s

    def unheard_s(self, now_s: float) -> float:
        """For how long it has answered none of its questions; 0 if it has answered the last one."""
        return 0.0 if self._unheard_since_s is None else now_s - self._unheard_since_s

    @property
    def heard_load(self) -> EngineLoad | None:
        """What its predictor told last, as it was then; None if nothing was ever heard."""
        return None if self._heard is None else self._heard.load

    def heard_age_s(self, now_s: float) -> float | None:
        """How long ago that was."""
        return None if self._heard is None else now_s - self._heard.time_s

    def last_known_load(self, now_s: float, max_age_s: float) -> EngineLoad | None:
        """What was last heard, plus what was sent since and is not over, less what else is over since.

        None if that is older than ``max_age_s``, or nothing was ever heard.
        """
        heard = self._heard
        if heard is None or now_s - heard.time_s > max_age_s:
            return None
        newer = self._sent_since(heard.tally)
        over, sent = self.tally.over - heard.tally.over, self._sent - heard.tally.sent
        return _brought_up_to_date(heard.load, newer, over - (sent - len(newer)))

    def _sent_since(self, tally: Tally) -> list[Burden]:
        """Outstanding requests that were not sent yet at that tally."""
        numbers = itertools.takewhile(lambda number: number >= tally.sent, reversed(self._outstanding))
        return [self._outstanding[number] for number in numbers]

    def _turn_to(self, second: int) -> None:
        """Forget what is older than a minute."""
        self._second = second
        horizon = second - MINUTE_S
        while self._seconds and (oldest := next(iter(self._seconds))) <= horizon:
            self._sent_last_minute -= self._seconds.pop(oldest)


def _brought_up_to_date(load: EngineLoad, newer: Sequence[Burden], over: int) -> EngineLoad:
    """``over`` of those that the load counts are over: which they were in the engine is not known, so
    that they take their average share along."""
    kept = max(0.0, 1 - over / max(load.running + load.waiting + load.committed, 1))
    return EngineLoad(
        running=round(load.running * kept),
        waiting=round(load.waiting * kept),
        committed=round(load.committed * kept) + len(newer),
        free_blocks=load.total_blocks - round((load.total_blocks - load.free_blocks) * kept),
        total_blocks=load.total_blocks,
        waiting_prompt_tokens=round(load.waiting_prompt_tokens * kept) + sum(b.prompt_tokens for b in newer),
        unprocessed_tokens=round(load.unprocessed_tokens * kept) + sum(b.tokens for b in newer),
    )

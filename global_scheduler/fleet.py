"""The instances known to this scheduler: which are up, what they serve, what was sent to them.

Holds state; asks nobody. ``health`` and ``roster`` write it, the router reads it.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Iterable, Sequence

from block.config import BreakerSettings, InstanceConfig
from block.errors import RequestError
from block.http.origin import Origin, split_url
from block.messages import SHARED_PLACE
from global_scheduler.breaker import Breaker, BreakerState
from global_scheduler.life_signs import LifeSigns
from global_scheduler.model_list import ModelCard
from global_scheduler.traffic import Traffic

_CLOSED = BreakerState.CLOSED
PREDICTOR_PAUSE_S = 5.0
"""Longest pause before a predictor that was late is asked again."""


class Instance:
    """One vLLM server as this scheduler sees it."""

    def __init__(
        self,
        config: InstanceConfig,
        rules: BreakerSettings | None = None,
        dice: random.Random | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """``rules`` and ``dice``: of its breakers; ``context``: for https, None trusts the system's
        authorities.
        """
        rules, dice = rules or BreakerSettings(), dice or random.Random()
        self.config = config
        self.name = config.name
        self.origin, self.prefix = split_url(config.url, context)
        self.predictor = split_url(config.predictor_url, context) if config.predictor_url else None
        """Origin and path of its predictor, if it has one."""
        self.shared = _shared_place(self.predictor, self.name)
        """Where several predictors are asked at once, its own among them; None if it is alone."""
        self.healthy = False
        """Whether it answered its last health poll."""
        self.slow = False
        """Whether it is late with the poll that is under way."""
        self.silent = False
        """Whether a stream has been waited for, and nothing at all has come, for suspiciously long."""
        self.draining = False
        """Whether it is being taken out of service."""
        self.breaker = Breaker(rules, dice)
        self.timeliness = Breaker(_hardly_pausing(rules), dice)
        """Its predictor's: late answers open it, and then nobody waits for them."""
        self.signs = LifeSigns()
        self.traffic = Traffic()
        self._models: tuple[ModelCard, ...] | None = None
        self._model_lens: dict[str, int | None] = {}
        """By model; where none is named, the first one's."""
        self.model_names: frozenset[str] = frozenset()
        """Of what it serves."""
        self.doubted = asyncio.Event()
        """Set to have it polled at once."""

    @property
    def usable(self) -> bool:
        """Whether requests may go there, if there is nobody better."""
        return self.healthy and not self.draining

    @property
    def ready(self) -> bool:
        """Whether nothing speaks against sending requests there."""
        breaker = self.breaker
        return (
            self.healthy
            and not (self.draining or self.slow or self.silent)
            and (breaker.state is _CLOSED or breaker.admits)
        )

    @property
    def condition(self) -> str:
        """In one word, the worst first."""
        conditions = {
            "draining": self.draining,
            "down": not self.healthy,
            "open": self.breaker.state is BreakerState.OPEN,
            "half_open": self.breaker.state is BreakerState.HALF_OPEN,
            "silent": self.silent,
            "slow": self.slow,
        }
        return next((word for word, holds in conditions.items() if holds), "ready")

    @property
    def outstanding(self) -> int:
        """Requests sent there by this scheduler that are not over."""
        return self.traffic.outstanding

    @property
    def models(self) -> tuple[ModelCard, ...] | None:
        """What it serves; None until it has told."""
        return self._models

    @models.setter
    def models(self, cards: tuple[ModelCard, ...]) -> None:
        self._models = cards
        self.model_names = frozenset(card.id for card in cards)
        self._model_lens = {card.id: card.max_model_len for card in reversed(cards)}
        if cards:
            self._model_lens.setdefault("", cards[0].max_model_len)

    def serves(self, model: str) -> bool:
        """Whether it is worth asking for ``model``; an instance that has not told may serve anything."""
        return model in self.model_names or not model or self._models is None

    def max_model_len(self, model: str) -> int | None:
        """Length limit of ``model`` there, if known."""
        return self._model_lens.get(model)

    def mark_down(self) -> None:
        """Send nothing there until a poll succeeds."""
        self.healthy = False
        self.doubted.set()

    def give_up(self) -> None:
        """It is down for certain: what waits for its first byte ends now, and can go elsewhere."""
        self.healthy = False
        self.signs.give_up()


def _shared_place(predictor: tuple[Origin, bytes] | None, name: str) -> tuple[Origin, bytes] | None:
    ending = SHARED_PLACE + name.encode()
    if predictor is None or not predictor[1].endswith(ending):
        return None
    return predictor[0], predictor[1].removesuffix(ending)


def _hardly_pausing(rules: BreakerSettings) -> BreakerSettings:
    """To check whether a predictor is in time again costs nobody anything."""
    longest_s = min(rules.longest_pause_s, PREDICTOR_PAUSE_S)
    return rules.model_copy(update={"longest_pause_s": longest_s})


class Fleet:
    """All instances that are in service or draining, in the order of their list."""

    def __init__(
        self,
        configs: Sequence[InstanceConfig],
        retry_after_s: float,
        breaker: BreakerSettings | None = None,
        seed: int | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """``seed``: for the breakers' pauses; None, so that no two schedulers pause alike. ``context``: for
        https.
        """
        self._context = context
        self._breaker = breaker or BreakerSettings()
        self._dice = random.Random(seed)
        self._retry_after_s = retry_after_s
        self.instances: tuple[Instance, ...] = ()
        self.predicted = False
        """Whether any of them has a predictor."""
        self._by_name: dict[str, Instance] = {}
        self.arrange([self.make(config) for config in configs])

    def make(self, config: InstanceConfig) -> Instance:
        """An instance that is not part of the fleet yet."""
        return Instance(config, self._breaker, self._dice, self._context)

    def arrange(self, instances: Sequence[Instance]) -> None:
        """These are the fleet from now on."""
        self.instances = tuple(instances)
        self.predicted = any(instance.predictor for instance in instances)
        self._by_name = {instance.name: instance for instance in instances}

    @property
    def healthy(self) -> tuple[Instance, ...]:
        """Those that answered their last poll."""
        return tuple(instance for instance in self.instances if instance.healthy)

    def eligible(self, model: str) -> tuple[Instance, ...]:
        """Instances that serve ``model`` and that nothing speaks against, at least one.

        If something speaks against each of them, all that are healthy: then doubts are no help, and what
        trips every breaker may be one client's doing. Raises RequestError: 404 if the whole fleet's models
        are known and it is none of them, else 503.
        """
        able = [one for one in self.instances if one.ready and one.serves(model)]
        if not able:
            able = [instance for instance in self.instances if instance.usable and instance.serves(model)]
        if able:
            return tuple(able)
        if self.healthy and not any(instance.serves(model) for instance in self.instances):
            raise RequestError(
                f"The model {model!r} does not exist; served here: {', '.join(self._served())}",
                status=404,
                code="model_not_found",
                param="model",
            )
        raise RequestError(
            "no healthy instance" + (f" serves {model!r}" if model else ""),
            status=503,
            code="no_healthy_instance",
            retry_after_s=self._retry_after_s,
        )

    def lists(self, model: str) -> bool:
        """Whether some instance has told that it serves ``model``."""
        return any(model in instance.model_names for instance in self.instances)

    def named(self, names: Iterable[str]) -> tuple[Instance, ...]:
        """The instances of those names, in that order."""
        return tuple([self._by_name[name] for name in names])

    def _served(self) -> list[str]:
        return sorted({card.id for instance in self.instances for card in instance.models or ()})

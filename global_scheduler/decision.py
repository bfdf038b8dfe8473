"""From an inquiry to a ranking of instances: describe, probe, choose."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from block.config import SchedulerSettings
from block.errors import RequestError
from block.messages import MOST_SEQUENCES, CandidateRequest, PredictResponse, Wanted
from block.types import Prediction
from global_scheduler.admission import check_admission
from global_scheduler.description import Describer
from global_scheduler.fair_share import with_fair_share
from global_scheduler.fleet import Fleet, Instance
from global_scheduler.inquiry import Inquiry
from global_scheduler.lineup import cached_tokens, line_up
from global_scheduler.policies import Candidate, Choice, Needs, Policy, RoutingRequest
from global_scheduler.policies.block_nosim import BlockNosim
from global_scheduler.policies.least_request import LeastRequest
from global_scheduler.policies.slo import has_slo
from global_scheduler.question import Question
from global_scheduler.quorum import Quorum
from global_scheduler.traffic import Burden
from length_estimation.length_service import LengthService
from length_estimation.token_counter import TokenCounter

_NO_ANSWERS: Mapping[str, PredictResponse] = {}
_NOTHING_CACHED: Mapping[str, int] = {}

logger = logging.getLogger(__name__)


class Asker(Protocol):
    """Whoever puts a question to predictors."""

    async def ask(self, instances: Sequence[Instance], question: Question) -> dict[str, PredictResponse]:
        """Answers by instance name; none at all if there were too few."""
        ...


class Decision(msgspec.Struct, frozen=True):
    """Where a request goes, and why."""

    instances: tuple[Instance, ...]
    """Best first."""
    question: Question | None
    """What predictors were asked, or would have been; None if no instance has one."""
    burden: Burden
    """What the instance that serves it has to carry."""
    policy: str
    fallback: str | None
    """Why a heuristic, or old knowledge, chose in place of the policy; None if the policy did."""
    predictions: Mapping[str, Prediction]
    """By instance name."""
    request: RoutingRequest
    candidates: Sequence[Candidate]
    choice: Choice
    """What was made of these two."""
    began_s: float
    """Of ``time.perf_counter``, like the next two."""
    described_s: float
    """When the request was counted and its response estimated."""
    asked_s: float
    """When the predictors had been asked."""
    took_s: float


class Decider:
    """Decides, and remembers nothing of it."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        prober: Asker,
        policies: Mapping[str, Policy],
        lengths: LengthService,
        counter: TokenCounter,
        settings: SchedulerSettings,
    ) -> None:
        """``policies`` has at least the settings' default."""
        self._fleet = fleet
        self._prober = prober
        self._policies = policies
        self._needs = {name: policy.needs for name, policy in policies.items()}
        self._describer = Describer(fleet, lengths, counter, settings)
        self._default = settings.policy
        self._most_miss = settings.admission_max_miss
        self._last_state_s = settings.last_state_max_age_s
        self._quorum = Quorum(
            None, settings.probe_quorum, settings.probe_grace_s, settings.probe_minimum
        )  # taken from the settings once: each look there costs as much as ten at an attribute

    def policy_name(self, inquiry: Inquiry) -> str:
        """The policy that applies. Raises RequestError (400) if the client named an unknown one."""
        name = inquiry.policy or self._default
        if name not in self._policies:
            known = ", ".join(self._policies)
            raise RequestError(f"unknown policy {name[:64]!r}; known: {known}", param="x-block-policy")
        return name

    def decide_at_once(self, inquiry: Inquiry) -> Decision | None:
        """Rank the eligible instances; None if somebody has to be asked first.

        Raises RequestError if there is none, or none is good enough.
        """
        began_s = time.perf_counter()
        name = self.policy_name(inquiry)
        needs = self._needs[name]
        if needs.answers or self._most_miss is not None:
            return None
        eligible = self._fleet.eligible(inquiry.model)
        request = self._describer.describe_at_once(inquiry, eligible[0], needs)
        if request is None:
            return None
        described_s = time.perf_counter()
        question, cached = None, _NOTHING_CACHED
        if needs.prefixes or self._fleet.predicted:
            question = self._question(request, needs, eligible, len(inquiry.prompt_json))
            cached = question.cached_tokens
        candidates = line_up(eligible, _NO_ANSWERS, cached)
        choice, fallback = _safe_choice(self._policies[name], request, candidates)
        times_s = began_s, described_s, described_s
        return self._decision(name, request, question, candidates, choice, fallback, _NO_ANSWERS, times_s)

    async def decide(self, inquiry: Inquiry) -> Decision:
        """The same, with whatever has to be asked.

        Nothing is awaited after the choice: a caller that counts the request as outstanding at once
        keeps the next decision's view true.
        """
        began_s = time.perf_counter()
        name = self.policy_name(inquiry)
        needs = self._needs[name]
        eligible = self._fleet.eligible(inquiry.model)
        request = await self._describer.describe(inquiry, eligible[0], needs)
        described_s = time.perf_counter()
        question = self._question(request, needs, eligible, len(inquiry.prompt_json))
        answers: Mapping[str, PredictResponse] = _NO_ANSWERS
        if needs.answers or self._judges(request):
            asked = await self._prober.ask(eligible, question)
            eligible = self._fleet.eligible(inquiry.model)  # somebody may have gone down meanwhile
            answers = {one.name: asked[one.name] for one in eligible if one.name in asked}
        asked_s = time.perf_counter()
        missing = len(eligible) - len(answers) if needs.answers else 0
        max_age_s = self._last_state_s if missing == len(eligible) else None
        candidates = line_up(eligible, answers, question.cached_tokens, max_age_s)
        choice, fallback = self._choose(self._policies[name], request, candidates, eligible, missing)
        times_s = began_s, described_s, asked_s
        return self._decision(name, request, question, candidates, choice, fallback, answers, times_s)

    def _decision(
        self,
        name: str,
        request: RoutingRequest,
        question: Question | None,
        candidates: Sequence[Candidate],
        choice: Choice,
        fallback: str | None,
        answers: Mapping[str, PredictResponse],
        times_s: tuple[float, float, float],
    ) -> Decision:
        return Decision(
            self._fleet.named((choice.instance, *choice.ranking)),
            question,
            Burden(request.prompt_tokens, request.output_tokens * request.sequences, request.prefix_digests),
            name,
            fallback,
            {one: answer.prediction for one, answer in answers.items() if answer.prediction},
            request,
            candidates,
            choice,
            *times_s,
            time.perf_counter() - times_s[0],
        )

    def _choose(
        self,
        policy: Policy,
        request: RoutingRequest,
        candidates: Sequence[Candidate],
        eligible: Sequence[Instance],
        missing: int,
    ) -> tuple[Choice, str | None]:
        """The choice, and why the policy did not make it on fresh answers, if so.

        ``missing``: how many of the ``eligible`` have no answer to the policy's question; all, if too few
        had one.
        """
        fallback = None
        if missing == len(eligible):
            policy, fallback = _substitute(policy, candidates, eligible)
        elif self._most_miss is not None:
            check_admission(request, candidates, self._most_miss)
        choice, failed = _safe_choice(policy, request, candidates)
        if missing and failed is None and fallback is None:
            share = with_fair_share(choice, request, eligible, candidates, time.monotonic())
            return (choice, None) if share is None else (share, share.reason)
        return choice, failed or fallback

    def _question(
        self,
        request: RoutingRequest,
        needs: Needs,
        eligible: Sequence[Instance],
        prompt_bytes: int,
    ) -> Question:
        return Question(
            candidate=_newcomer(request),
            seed=request.seed,
            wanted=self._wanted(request, needs),
            quorum=msgspec.structs.replace(self._quorum, probes=needs.probes),
            cached_tokens=cached_tokens(request, eligible, prompt_bytes),
        )

    def _wanted(self, request: RoutingRequest, needs: Needs) -> Wanted:
        if needs.predictions:
            return "harm" if needs.harm else "times"
        return "times" if self._judges(request) else "load"

    def _judges(self, request: RoutingRequest) -> bool:
        """Whether admission control has to know what is predicted, whatever the policy looks at."""
        return self._most_miss is not None and has_slo(request)


def _substitute(
    policy: Policy, candidates: Sequence[Candidate], eligible: Sequence[Instance]
) -> tuple[Policy, str]:
    """Who chooses when too few predictors answered.

    Old loads serve only if they are known of all that could tell theirs: else the few would get it all.
    """
    tellers = {instance.name for instance in eligible if instance.predictor}
    known = {candidate.name for candidate in candidates if candidate.load is not None}
    if not known or not tellers <= known:
        return LeastRequest(), "no_prediction"
    return BlockNosim() if policy.needs.predictions else policy, "last_known_state"


def _safe_choice(
    policy: Policy, request: RoutingRequest, candidates: Sequence[Candidate]
) -> tuple[Choice, str | None]:
    """The policy's, or a heuristic's if it fails or names other than the candidates; and whether it failed.

    The one place where code of the operator's own runs: whatever it does, the request goes on.
    """
    try:
        choice = policy.choose(request, candidates)
        if choice.ranks(candidates):
            return choice, None
        logger.error("policy %s did not rank each candidate once: %s", policy, choice)
    except Exception:
        logger.exception("policy %s failed", policy)
    return LeastRequest().choose(request, candidates), "policy_failed"


def _newcomer(request: RoutingRequest) -> CandidateRequest:
    """Predictors take no counts below one; an engine that is asked for no tokens refuses by itself.

    Of several prompts each is taken for as long as they are on average.
    """
    return CandidateRequest(
        request.id,
        max(-(-request.prompt_tokens // request.prompts), 1),
        max(request.output_tokens, 1),
        max(request.max_tokens, 1),
        priority=request.priority,
        output_quantiles=request.output_quantiles,
        sequences=min(request.sequences, MOST_SEQUENCES),
        samples=min(request.samples, MOST_SEQUENCES),
    )

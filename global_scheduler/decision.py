"""From an inquiry to a ranking of instances: count, estimate, probe, choose."""

from __future__ import annotations

import itertools
import logging
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from block.config import SchedulerSettings
from block.errors import RequestError
from block.messages import MOST_SEQUENCES, CandidateRequest, PredictResponse, Wanted
from block.types import Prediction
from global_scheduler.admission import check_admission
from global_scheduler.fair_share import with_fair_share
from global_scheduler.fleet import Fleet, Instance
from global_scheduler.inquiry import Inquiry
from global_scheduler.lineup import cached_tokens, line_up
from global_scheduler.policies import Candidate, Choice, Needs, Policy, RoutingRequest
from global_scheduler.policies.block_nosim import BlockNosim
from global_scheduler.policies.least_request import LeastRequest
from global_scheduler.policies.slo import has_slo
from global_scheduler.prefixes import prefix_digests
from global_scheduler.question import Question
from global_scheduler.quorum import Quorum
from global_scheduler.traffic import Burden
from length_estimation.estimator import EstimationRequest, LengthEstimate
from length_estimation.length_service import LengthService
from length_estimation.token_counter import TokenCounter, guess_tokens

COMPLETION_MAX_TOKENS = 16
"""What OpenAI's completions API takes for an absent max_tokens; a chat's is the room that is left."""

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
    """Decides; its only memory is how many requests it has seen."""

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
        self._lengths = lengths
        self._counter = counter
        self._settings = settings
        self._sequence = itertools.count()

    def policy_name(self, inquiry: Inquiry) -> str:
        """The policy that applies. Raises RequestError (400) if the client named an unknown one."""
        name = inquiry.policy or self._settings.policy
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
        needs = self._policies[name].needs
        if needs.answers or self._settings.admission_max_miss is not None:
            return None
        eligible = self._fleet.eligible(inquiry.model)
        if not self._counts(needs):
            request = self._guessed(inquiry, eligible, needs)
        elif self._lengths.slow:
            return None
        else:
            prompt_tokens, wanted = self._to_estimate(inquiry, eligible)
            estimate = self._lengths.estimate_at_once(inquiry.id, wanted)
            request = self._counted(inquiry, needs, prompt_tokens, wanted.max_tokens, estimate)
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
        needs = self._policies[name].needs
        eligible = self._fleet.eligible(inquiry.model)
        if self._counts(needs):
            prompt_tokens, wanted = self._to_estimate(inquiry, eligible)
            estimate = await self._lengths.estimate(inquiry.id, wanted)
            request = self._counted(inquiry, needs, prompt_tokens, wanted.max_tokens, estimate)
        else:
            request = self._guessed(inquiry, eligible, needs)
        described_s = time.perf_counter()
        question = self._question(request, needs, eligible, len(inquiry.prompt_json))
        answers: Mapping[str, PredictResponse] = _NO_ANSWERS
        if needs.answers or self._judges(request):
            asked = await self._prober.ask(eligible, question)
            eligible = self._fleet.eligible(inquiry.model)  # somebody may have gone down meanwhile
            answers = {one.name: asked[one.name] for one in eligible if one.name in asked}
        asked_s = time.perf_counter()
        missing = len(eligible) - len(answers) if needs.answers else 0
        max_age_s = self._settings.last_state_max_age_s if missing == len(eligible) else None
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
        elif self._settings.admission_max_miss is not None:
            check_admission(request, candidates, self._settings.admission_max_miss)
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
            quorum=self._quorum(needs),
            cached_tokens=cached_tokens(request, eligible, prompt_bytes),
        )

    def _wanted(self, request: RoutingRequest, needs: Needs) -> Wanted:
        if needs.predictions:
            return "harm" if needs.harm else "times"
        return "times" if self._judges(request) else "load"

    def _judges(self, request: RoutingRequest) -> bool:
        """Whether admission control has to know what is predicted, whatever the policy looks at."""
        return self._settings.admission_max_miss is not None and has_slo(request)

    def _quorum(self, needs: Needs) -> Quorum:
        settings = self._settings
        return Quorum(needs.probes, settings.probe_quorum, settings.probe_grace_s, settings.probe_minimum)

    def _counts(self, needs: Needs) -> bool:
        """Whether tokens are counted and lengths estimated, or both merely guessed."""
        return needs.lengths or needs.answers or self._fleet.predicted

    def _counted(
        self,
        inquiry: Inquiry,
        needs: Needs,
        prompt_tokens: int,
        max_tokens: int,
        estimate: LengthEstimate,
    ) -> RoutingRequest:
        """With its prompt's tokens, and its response's length as it is estimated."""
        output_tokens = min(max(1, round(estimate.mean_tokens)), max_tokens)
        quantiles = estimate.quantiles if len(estimate.quantiles) > 1 else ()
        return self._described(inquiry, needs, prompt_tokens, output_tokens, max_tokens, quantiles)

    def _guessed(self, inquiry: Inquiry, eligible: Sequence[Instance], needs: Needs) -> RoutingRequest:
        """By its size alone."""
        prompt_tokens = guess_tokens(len(inquiry.prompt_json))
        max_tokens = self._max_tokens(inquiry, prompt_tokens, eligible[0])
        output_tokens = min(self._settings.constant_output_tokens, max_tokens)
        return self._described(inquiry, needs, prompt_tokens, output_tokens, max_tokens, ())

    def _described(
        self,
        inquiry: Inquiry,
        needs: Needs,
        prompt_tokens: int,
        output_tokens: int,
        max_tokens: int,
        quantiles: tuple[tuple[float, float], ...],
    ) -> RoutingRequest:
        settings, sequence = self._settings, next(self._sequence)
        return RoutingRequest(
            inquiry.id,
            inquiry.model,
            prompt_tokens,
            output_tokens,
            max_tokens,
            inquiry.priority,
            sequence,
            zlib.crc32(inquiry.id.encode()) ^ sequence,
            quantiles,
            inquiry.session,
            _digests(inquiry) if needs.prefixes or needs.predictions else (),
            inquiry.slo_ttft_s or settings.slo_ttft_s,
            inquiry.slo_e2e_s or settings.slo_e2e_s,
            inquiry.samples,
            inquiry.prompts,
        )

    def _to_estimate(self, inquiry: Inquiry, eligible: Sequence[Instance]) -> tuple[int, EstimationRequest]:
        """The prompt's tokens, and what is asked about the response's."""
        prompt_tokens = self._prompt_tokens(inquiry)
        return prompt_tokens, EstimationRequest(
            prompt_tokens,
            self._max_tokens(inquiry, prompt_tokens, eligible[0]),
            inquiry.declared_output_tokens,
            inquiry.prompt_json,
            inquiry.model,
            inquiry.temperature,
        )

    def _prompt_tokens(self, inquiry: Inquiry) -> int:
        if inquiry.chat:
            return self._counter.messages(inquiry.prompt_json, inquiry.tools_json)
        return self._counter.prompt(inquiry.prompt_json)

    def _max_tokens(self, inquiry: Inquiry, prompt_tokens: int, instance: Instance) -> int:
        """``prompt_tokens`` of all prompts. Instances of one model are taken to have the same limits."""
        asked, max_model_len = inquiry.max_tokens, instance.max_model_len(inquiry.model)
        if asked is None and not inquiry.chat:
            asked = COMPLETION_MAX_TOKENS
        unbounded = self._settings.constant_output_tokens  # neither request nor instance tells
        room = unbounded if asked is None else max(1, asked)  # the engine computes one for none
        if max_model_len is None:
            return room
        left = max(1, max_model_len - prompt_tokens // inquiry.prompts)
        return left if asked is None else min(room, left)


def _digests(inquiry: Inquiry) -> tuple[int, ...]:
    return prefix_digests(inquiry.model.encode() + b"\0" + inquiry.tools_json, inquiry.prompt_json)


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

"""From an inquiry to a ranking of instances: count, estimate, probe, choose."""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from block.errors import RequestError
from block.messages import CandidateRequest, PredictResponse
from block.types import Prediction
from global_scheduler.fleet import Fleet, Instance
from global_scheduler.inquiry import Inquiry
from global_scheduler.policies import Candidate, Policy, RoutingRequest
from global_scheduler.policies.least_request import LeastRequest
from global_scheduler.probe import Prober
from length_estimation.estimator import EstimationRequest
from length_estimation.length_service import LengthService
from length_estimation.token_counter import TokenCounter

COMPLETION_MAX_TOKENS = 16
"""What OpenAI's completions API takes for an absent max_tokens; a chat's is the room that is left."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes, and why."""

    instances: tuple[Instance, ...]
    """Best first."""
    candidate: CandidateRequest
    policy: str
    fallback: str | None
    """Why a heuristic chose in place of the policy; None if the policy did."""
    predictions: Mapping[str, Prediction]
    """By instance name."""
    took_s: float


class Decider:
    """Decides; its only memory is how many requests it has seen."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        prober: Prober,
        policies: Mapping[str, Policy],
        default_policy: str,
        lengths: LengthService,
        counter: TokenCounter,
        unbounded_tokens: int,
    ) -> None:
        """``unbounded_tokens``: response limit assumed where neither request nor instance tells."""
        self._fleet = fleet
        self._prober = prober
        self._policies = policies
        self._default_policy = default_policy
        self._lengths = lengths
        self._counter = counter
        self._unbounded_tokens = unbounded_tokens
        self._sequence = itertools.count()

    def policy_name(self, inquiry: Inquiry) -> str:
        """The policy that applies. Raises RequestError (400) if the client named an unknown one."""
        name = inquiry.policy or self._default_policy
        if name not in self._policies:
            known = ", ".join(self._policies)
            raise RequestError(f"unknown policy {name[:64]!r}; known: {known}", param="x-block-policy")
        return name

    async def decide(self, inquiry: Inquiry) -> Decision:
        """Rank the eligible instances. Raises RequestError if there is none.

        Nothing is awaited after the choice: a caller that counts the request as outstanding at once
        keeps the next decision's view true.
        """
        started_s = time.perf_counter()
        name = self.policy_name(inquiry)
        eligible = self._fleet.eligible(inquiry.model)
        request = await self._describe(inquiry, eligible)
        candidate = _candidate(request)
        policy = self._policies[name]
        answers: dict[str, PredictResponse] = {}
        fallback = None
        if policy.uses_predictions:
            asked = await self._prober.ask(eligible, candidate, request.seed)
            eligible = self._fleet.eligible(inquiry.model)  # somebody may have gone down meanwhile
            answers = {one.name: asked[one.name] for one in eligible if one.name in asked}
            if not answers:
                policy, fallback = LeastRequest(), "no_prediction"
        choice = policy.choose(request, [_as_candidate(instance, answers) for instance in eligible])
        return Decision(
            instances=self._fleet.named((choice.instance, *choice.ranking)),
            candidate=candidate,
            policy=name,
            fallback=fallback,
            predictions={name: answer.prediction for name, answer in answers.items()},
            took_s=time.perf_counter() - started_s,
        )

    async def _describe(self, inquiry: Inquiry, eligible: Sequence[Instance]) -> RoutingRequest:
        prompt_tokens = self._prompt_tokens(inquiry)
        max_tokens = self._max_tokens(inquiry, prompt_tokens, eligible[0].max_model_len(inquiry.model))
        estimate = await self._lengths.estimate(
            inquiry.id,
            EstimationRequest(
                prompt_tokens,
                max_tokens,
                inquiry.declared_output_tokens,
                inquiry.prompt_json,
                inquiry.model,
                inquiry.temperature,
            ),
        )
        sequence = next(self._sequence)
        return RoutingRequest(
            id=inquiry.id,
            model=inquiry.model,
            prompt_tokens=prompt_tokens,
            output_tokens=min(max(1, round(estimate.mean_tokens)), max_tokens),
            max_tokens=max_tokens,
            priority=inquiry.priority,
            sequence=sequence,
            seed=zlib.crc32(inquiry.id.encode()) ^ sequence,
            output_quantiles=estimate.quantiles if len(estimate.quantiles) > 1 else (),
        )

    def _prompt_tokens(self, inquiry: Inquiry) -> int:
        if inquiry.chat:
            return self._counter.messages(inquiry.prompt_json, inquiry.tools_json)
        return self._counter.prompt(inquiry.prompt_json)

    def _max_tokens(self, inquiry: Inquiry, prompt_tokens: int, max_model_len: int | None) -> int:
        asked = inquiry.max_tokens
        if asked is None and not inquiry.chat:
            asked = COMPLETION_MAX_TOKENS
        room = self._unbounded_tokens if asked is None else max(1, asked)  # the engine computes one for none
        if max_model_len is None:
            return room
        left = max(1, max_model_len - prompt_tokens)
        return left if asked is None else min(room, left)


def _candidate(request: RoutingRequest) -> CandidateRequest:
    return CandidateRequest(
        id=request.id,
        prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
        max_tokens=request.max_tokens,
        priority=request.priority,
        output_quantiles=request.output_quantiles,
    )


def _as_candidate(instance: Instance, answers: Mapping[str, PredictResponse]) -> Candidate:
    answer = answers.get(instance.name)
    if answer is None:
        return Candidate(instance.name, instance.outstanding)
    return Candidate(instance.name, instance.outstanding, answer.prediction, answer.load)

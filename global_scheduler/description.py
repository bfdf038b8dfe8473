"""A request as policies see it: its prompt counted and its response estimated, or both guessed by size."""

from __future__ import annotations

import itertools
import zlib

from block.config import SchedulerSettings
from global_scheduler.fleet import Fleet, Instance
from global_scheduler.inquiry import Inquiry
from global_scheduler.policies import Needs, RoutingRequest
from global_scheduler.prefixes import prefix_digests
from length_estimation.estimator import EstimationRequest, LengthEstimate
from length_estimation.length_service import LengthService
from length_estimation.token_counter import TokenCounter, guess_tokens

COMPLETION_MAX_TOKENS = 16
"""What OpenAI's completions API takes for an absent max_tokens; a chat's is the room that is left."""


class Describer:
    """Its only memory is how many requests it has seen."""

    def __init__(
        self, fleet: Fleet, lengths: LengthService, counter: TokenCounter, settings: SchedulerSettings
    ) -> None:
        self._fleet = fleet
        self._lengths = lengths
        self._counter = counter
        self._constant_tokens = settings.constant_output_tokens
        self._slo_ttft_s = settings.slo_ttft_s
        self._slo_e2e_s = settings.slo_e2e_s
        self._sequence = itertools.count()

    def describe_at_once(self, inquiry: Inquiry, instance: Instance, needs: Needs) -> RoutingRequest | None:
        """None if an estimate may have to be waited for. ``instance``: any that serves its model."""
        if not (needs.lengths or needs.answers or self._fleet.predicted):
            return self._guessed(inquiry, instance, needs)
        if self._lengths.slow:
            return None
        wanted = self._to_estimate(inquiry, instance)
        return self._counted(inquiry, needs, wanted, self._lengths.estimate_at_once(inquiry.id, wanted))

    async def describe(self, inquiry: Inquiry, instance: Instance, needs: Needs) -> RoutingRequest:
        """The same, with the estimate that is waited for."""
        request = self.describe_at_once(inquiry, instance, needs)
        if request is not None:
            return request
        wanted = self._to_estimate(inquiry, instance)
        return self._counted(inquiry, needs, wanted, await self._lengths.estimate(inquiry.id, wanted))

    def _counted(
        self, inquiry: Inquiry, needs: Needs, asked: EstimationRequest, estimate: LengthEstimate
    ) -> RoutingRequest:
        output_tokens = min(max(1, round(estimate.mean_tokens)), asked.max_tokens)
        quantiles = estimate.quantiles if len(estimate.quantiles) > 1 else ()
        return self._described(
            inquiry, needs, asked.prompt_tokens, output_tokens, asked.max_tokens, quantiles, estimate.origin
        )

    def _guessed(self, inquiry: Inquiry, instance: Instance, needs: Needs) -> RoutingRequest:
        prompt_tokens = guess_tokens(len(inquiry.prompt_json))
        max_tokens = self._max_tokens(inquiry, prompt_tokens, instance)
        output_tokens = min(self._constant_tokens, max_tokens)
        return self._described(inquiry, needs, prompt_tokens, output_tokens, max_tokens, ())

    def _described(
        self,
        inquiry: Inquiry,
        needs: Needs,
        prompt_tokens: int,
        output_tokens: int,
        max_tokens: int,
        quantiles: tuple[tuple[float, float], ...],
        estimated_by: str = "",
    ) -> RoutingRequest:
        sequence = next(self._sequence)
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
            inquiry.slo_ttft_s or self._slo_ttft_s,
            inquiry.slo_e2e_s or self._slo_e2e_s,
            inquiry.samples,
            inquiry.prompts,
            estimated_by,
        )

    def _to_estimate(self, inquiry: Inquiry, instance: Instance) -> EstimationRequest:
        prompt_tokens = self._prompt_tokens(inquiry)
        return EstimationRequest(
            prompt_tokens,
            self._max_tokens(inquiry, prompt_tokens, instance),
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
        # The engine computes one token where none is asked for; and nobody may tell any limit.
        room = self._constant_tokens if asked is None else asked or 1
        if max_model_len is None:
            return room
        left = max(1, max_model_len - prompt_tokens // inquiry.prompts)
        return left if asked is None else min(room, left)


def _digests(inquiry: Inquiry) -> tuple[int, ...]:
    return prefix_digests(inquiry.model.encode() + b"\0" + inquiry.tools_json, inquiry.prompt_json)

"""The emulated forward pass: which requests of a batch get a token, which token, and the batch's shape.

A request gets a token only in the step in which its computed tokens reach all its tokens (prompt and
responses so far): nothing mid-prefill, nor mid-re-prefill after a preemption. With asynchronous
scheduling "so far" counts the tokens that in-flight steps will bring. Knows nothing of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from vllm.v1.core.sched.output import GrammarOutput, SchedulerOutput
from vllm.v1.outputs import ModelRunnerOutput

from block.lengths import LengthDistribution
from block.types import BatchShape
from block.vllm_plugin.speaker import Speaker
from block.vllm_plugin.synthetic_logprobs import prompt_logprobs, sampled_logprobs
from block.vllm_plugin.vocabulary import Vocabulary


class ScheduledRequest(NamedTuple):
    """One request's part of a step."""

    id: str
    tokens: int
    computed_before: int
    outputs_before: int
    """Output tokens processed or promised by in-flight steps."""


class EmulatedModel:
    """Holds a voice per live request, as a model runner holds its request states."""

    def __init__(self, vocabulary: Vocabulary, seed: int, lengths: LengthDistribution | None = None) -> None:
        """``lengths``: of responses whose length is not recorded; None lets them run to max_tokens."""
        self._vocabulary = vocabulary
        self._lengths = lengths
        self._seed = seed
        self._speakers: dict[str, Speaker] = {}

    def admit(self, batch: SchedulerOutput) -> list[ScheduledRequest]:
        """Learn the batch's new requests, forget the finished ones; returns what is scheduled."""
        for request_id in batch.finished_req_ids:
            self._speakers.pop(request_id, None)
        return [*self._new_requests(batch), *self._known_requests(batch)]

    def shape(self, scheduled: list[ScheduledRequest]) -> BatchShape:
        """What the step-latency model looks at."""
        return BatchShape.of((item.tokens, item.computed_before + item.tokens) for item in scheduled)

    def sample(self, scheduled: list[ScheduledRequest], grammar: GrammarOutput | None) -> ModelRunnerOutput:
        """The step's output as vLLM's scheduler expects it."""
        bitmasks = {} if grammar is None else _rows(grammar)
        sampled = [self._tokens_of(item, bitmasks.get(item.id)) for item in scheduled]
        ids = [item.id for item in scheduled]
        output = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: index for index, request_id in enumerate(ids)},
            sampled_token_ids=sampled,
        )
        self._add_logprobs(output, scheduled)
        return output

    def _new_requests(self, batch: SchedulerOutput) -> Iterator[ScheduledRequest]:
        for new in batch.scheduled_new_reqs:
            speaker = Speaker.of(
                new.prompt_token_ids, new.sampling_params, self._vocabulary, self._seed, self._lengths
            )
            self._speakers[new.req_id] = speaker
            # Model runner v2 gets resumed requests as new ones, with all their tokens so far.
            outputs = len(new.prefill_token_ids) - speaker.prompt_tokens if new.prefill_token_ids else 0
            tokens = batch.num_scheduled_tokens[new.req_id]
            yield ScheduledRequest(new.req_id, tokens, new.num_computed_tokens, outputs)

    def _known_requests(self, batch: SchedulerOutput) -> Iterator[ScheduledRequest]:
        cached = batch.scheduled_cached_reqs
        for request_id, computed, outputs in zip(
            cached.req_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True
        ):
            yield ScheduledRequest(request_id, batch.num_scheduled_tokens[request_id], computed, outputs)

    def _tokens_of(self, item: ScheduledRequest, bitmask: Any) -> list[int]:
        speaker = self._speakers[item.id]
        if item.computed_before + item.tokens < speaker.prompt_tokens + item.outputs_before:
            return []
        if bitmask is not None:
            return [speaker.allowed_token(item.outputs_before, bitmask)]
        return [speaker.token(item.outputs_before)]

    def _add_logprobs(self, output: ModelRunnerOutput, scheduled: list[ScheduledRequest]) -> None:
        speakers = [self._speakers[item.id] for item in scheduled]
        widest = max((s.logprobs for s in speakers if s.logprobs is not None), default=None)
        if widest is not None:
            output.logprobs = sampled_logprobs(output.sampled_token_ids, widest, self._vocabulary.size)
        for item, speaker, tokens in zip(scheduled, speakers, output.sampled_token_ids, strict=True):
            if speaker.prompt_logprobs is not None and tokens and item.outputs_before == 0:
                output.prompt_logprobs_dict[item.id] = prompt_logprobs(
                    speaker.prompt, speaker.prompt_logprobs, self._vocabulary.size
                )


def _rows(grammar: GrammarOutput) -> dict[str, Any]:
    """One bitmask row per structured request: without speculation each has exactly one."""
    return dict(zip(grammar.structured_output_request_ids, grammar.grammar_bitmask, strict=False))

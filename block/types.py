"""Domain values shared by every room: what an engine holds, what a step is, what a prediction says.

Plain frozen values; nothing here knows of sockets, files or vLLM. Times named ``*_s`` are seconds;
``time_s`` and ``arrival_s`` are Unix time so that processes on one host can compare them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Self

SchedulingPolicy = Literal["fcfs", "priority"]


class RequestStatus(IntEnum):
    """Where a request stands in the engine's queues."""

    RUNNING = 0
    WAITING = 1
    PREEMPTED = 2


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What bounds one engine; constant over its life. Names follow vLLM's own."""

    block_size: int
    total_blocks: int
    """Blocks that requests can use. vLLM's pool holds one more, its null block."""
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    """Raise the threshold to a fair share of the step's tokens."""
    chunked_prefill: bool = True
    prefix_caching: bool = False
    policy: SchedulingPolicy = "fcfs"
    async_scheduling: bool = False
    watermark_blocks: int = 0
    reserve_full_prompt: bool = True
    """vLLM's ``scheduler_reserve_full_isl``: admit a prompt only if all of it fits."""


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What one engine step computed; the only thing a step-latency model may look at."""

    prefill_tokens: int
    """Tokens of requests that scheduled more than one token."""
    decode_tokens: int
    """Requests that scheduled exactly one token."""
    context_tokens: int
    """Sum over scheduled requests of their computed tokens, this step's included."""
    prefill_context_products: int
    """Sum over multi-token chunks of chunk tokens x computed tokens, this step's included."""
    requests: int

    @property
    def tokens(self) -> int:
        """All scheduled tokens."""
        return self.prefill_tokens + self.decode_tokens

    @classmethod
    def of(cls, scheduled: Iterable[tuple[int, int]]) -> Self:
        """Shape of ``(scheduled tokens, computed tokens afterwards)`` pairs, one per request."""
        prefill = decode = context = products = requests = 0
        for tokens, computed in scheduled:
            requests += 1
            context += computed
            if tokens == 1:
                decode += 1
            else:
                prefill += tokens
                products += tokens * computed
        return cls(prefill, decode, context, products, requests)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One executed step. ``duration_s`` is the batch's own: end - max(submit, previous end).

    What the engine does between one step's end and the next one's submission is in neither's duration;
    asynchronous scheduling hides it behind the forward pass, synchronous scheduling does not.
    """

    step: int
    submit_s: float
    end_s: float
    duration_s: float
    shape: BatchShape


@dataclass(frozen=True, slots=True)
class InFlightStep:
    """A batch that the engine has submitted and whose output it has not processed yet."""

    step: int
    submit_s: float
    """Of the oldest one, its predecessor's end if that was later: only then it began."""
    shape: BatchShape


@dataclass(frozen=True, slots=True)
class RequestState:
    """One request in the engine, as its scheduler sees it between two steps."""

    id: str
    status: RequestStatus
    arrival_s: float
    prompt_tokens: int
    max_tokens: int
    computed_tokens: int = 0
    """Tokens with KV computed or being computed by an in-flight step."""
    generated_tokens: int = 0
    """Output tokens the engine has processed."""
    in_flight_tokens: int = 0
    """Tokens of in-flight steps (included in ``computed_tokens``)."""
    newest_tokens: int = 0
    """Of those, the tokens of the newest in-flight step."""
    output_placeholders: int = 0
    """Async scheduling: output tokens promised by in-flight steps, to a preempted request too."""
    cached_tokens: int = 0
    """Leading prompt tokens found in the prefix cache at admission."""
    priority: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and processed output tokens."""
        return self.prompt_tokens + self.generated_tokens


@dataclass(frozen=True, slots=True)
class EngineState:
    """A consistent view of one engine, taken right after it scheduled a step."""

    engine_id: str
    """Changes when the engine restarts."""
    step: int
    """Steps scheduled so far."""
    time_s: float
    limits: EngineLimits
    running: tuple[RequestState, ...] = ()
    """In the engine's own running order."""
    waiting: tuple[RequestState, ...] = ()
    """In the order in which the engine will consider them; preempted ones included."""
    free_blocks: int = 0
    preemptions: int = 0
    """Cumulative over the engine's life."""
    in_flight: tuple[InFlightStep, ...] = ()
    """Oldest first; at most one when scheduling is synchronous, two when asynchronous."""
    recent_steps: tuple[StepRecord, ...] = field(default=(), compare=False)
    """Newest last."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that has not reached the engine's queue: the newcomer, or a committed choice."""

    id: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    """Response length that the simulation assumes."""
    max_tokens: int
    priority: int = 0
    cached_tokens: int = 0
    """Leading prompt tokens that the engine's prefix cache probably holds."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What would happen if the engine got one more request."""

    ttft_s: float
    e2e_s: float
    tpot_s: float
    """Mean time per output token after the first; 0 for single-token responses."""
    harm_sum_s: float
    """Extra delay of all other requests together; like the next two, 0 unless it was asked for."""
    harm_max_s: float
    """Extra delay of the worst-hit other request."""
    extra_preemptions: float
    state_age_s: float
    model_version: str
    """Which step-latency model, at which calibration."""
    confidence: float
    """0..1: share of the simulated steps inside the range that the model was fitted on."""


@dataclass(frozen=True, slots=True)
class PredictionSpread:
    """How far the scenarios of response lengths lie apart; a ``Prediction`` holds their means."""

    scenarios: int
    ttft_std_s: float
    ttft_max_s: float
    e2e_std_s: float
    e2e_max_s: float
    ttft_s: tuple[float, ...] = ()
    """One per scenario; with ``e2e_s``, in the same order."""
    e2e_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class CalibrationStatus:
    """What online calibration of the step times has come to.

    Errors are medians over recent steps, each predicted before it was learned from.
    """

    version: str
    samples: int
    """Steps observed since the start or the last reset."""
    factor: float
    """Common factor on the base's curve."""
    offset_s: float
    """Added to every step."""
    context_factor: float
    """Slope in context relative to the base's; 1 where the base has none."""
    step_overhead_s: float
    """Usual gap between a step's end and the next submission while work waits; part of the predictions."""
    recent_error: float
    """Median absolute relative error of the model in force."""
    base_error: float
    """The same of the base."""
    pace: float = 1.0
    """By how much longer than learned steps are expected to last for the moment."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The few counters that heuristic policies ask for, in-flight commitments included."""

    running: int
    waiting: int
    committed: int
    """Choices committed to this engine that its feed has not shown yet."""
    free_blocks: int
    total_blocks: int
    waiting_prompt_tokens: int
    """Prompt tokens still to be computed, committed choices included."""
    unprocessed_tokens: int
    """Prompt and expected output tokens still to be computed."""

"""Wire messages, used by both ends: the state feed (msgpack) and the predictor's HTTP API (JSON).

Feed: an XPUB socket on a local address carries ``Snapshot`` and ``Delta``, told apart by their tag.
A reader applies deltas whose ``seq`` follows its own by one; on a gap it subscribes anew and gets a
snapshot. Integer columns are little-endian int32 bytes, one entry per request in the stated order.
Requests are named by small handles after their first appearance.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from block.types import (
    Arrival,
    CalibrationStatus,
    EngineLimits,
    EngineLoad,
    InFlightStep,
    Prediction,
    PredictionSpread,
    StepRecord,
)

FEED_VERSION = 1

# What is beyond them would not fit the simulation's integers.
Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
SomeTokens = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
MOST_SEQUENCES = 1024
"""Of one client request; what is beyond would wait behind these in any engine."""
Sequences = Annotated[int, msgspec.Meta(ge=1, le=MOST_SEQUENCES)]
# All lengths of a state lie in one table, as wide as the longest of them.
Quantiles = Annotated[tuple[tuple[float, float], ...], msgspec.Meta(max_length=1024)]


class RequestFacts(msgspec.Struct, frozen=True, array_like=True):
    """What never changes about a request once it is in the engine."""

    handle: int
    id: str
    arrival_s: float
    prompt_tokens: int
    max_tokens: int
    priority: int = 0


class Columns(msgspec.Struct, frozen=True, array_like=True):
    """What changes each step, for one queue in its order: packed int32 columns."""

    computed: bytes = b""
    generated: bytes = b""
    in_flight: bytes = b""
    placeholders: bytes = b""
    newest: bytes = b""
    """Of the tokens in flight, those of the newest step."""


class Clockwork(msgspec.Struct, frozen=True, array_like=True):
    """Counters and step times that every feed message carries."""

    step: int
    time_s: float
    free_blocks: int
    preemptions: int
    in_flight: tuple[InFlightStep, ...] = ()
    finished_steps: tuple[StepRecord, ...] = ()
    """Steps whose output was processed since the previous message."""


class Snapshot(msgspec.Struct, frozen=True, array_like=True, tag="snapshot"):
    """The whole state; the reader drops what it had."""

    version: int
    seq: int
    engine_id: str
    limits: EngineLimits
    clock: Clockwork
    requests: tuple[RequestFacts, ...]
    running: bytes
    """Handles in running order."""
    running_columns: Columns
    waiting: bytes
    """Handles in waiting order."""
    waiting_columns: Columns
    preempted: bytes = b""
    """Handles of waiting requests that were preempted."""
    cached: dict[int, int] = {}
    """Handle -> leading prompt tokens found in the prefix cache; absent means none."""
    engine_name: str = ""
    """What it computes and on what: model, number formats, device, version; empty if it does not tell."""


class Delta(msgspec.Struct, frozen=True, array_like=True, tag="delta"):
    """What changed since ``seq - 1``. ``None`` means unchanged."""

    version: int
    seq: int
    engine_id: str
    clock: Clockwork
    added: tuple[RequestFacts, ...] = ()
    removed: bytes = b""
    """Handles of requests that left the engine."""
    running: bytes | None = None
    running_columns: Columns | None = None
    waiting: bytes | None = None
    waiting_columns: Columns | None = None
    preempted: bytes | None = None
    cached: dict[int, int] = {}
    """Newly known prefix-cache hits."""


FeedMessage = Snapshot | Delta


class CandidateRequest(msgspec.Struct, frozen=True):
    """The newcomer of a what-if, and of a commitment.

    It becomes ``sequences`` requests of the engine, each of the stated tokens.
    """

    id: str
    prompt_tokens: SomeTokens
    output_tokens: SomeTokens
    max_tokens: SomeTokens
    priority: Int64 = 0
    output_quantiles: Quantiles = ()
    """Distribution of the response length as (probability, tokens); empty: exactly ``output_tokens``."""
    cached_tokens: Tokens = 0
    """Leading prompt tokens that this instance's prefix cache probably holds."""
    sequences: Sequences = 1
    """Prompts times the responses to each."""
    samples: Sequences = 1
    """Responses to each prompt, OpenAI's ``n``; those after the first find the prompt in the prefix cache."""

    def arrivals(self, arrival_s: float) -> tuple[Arrival, ...]:
        """The engine's requests that it becomes, in their order."""
        return tuple(
            Arrival(
                id=self.id,
                arrival_s=arrival_s,
                prompt_tokens=self.prompt_tokens,
                output_tokens=self.output_tokens,
                max_tokens=self.max_tokens,
                priority=self.priority,
                cached_tokens=self.prompt_tokens if number % self.samples else self.cached_tokens,
            )
            for number in range(self.sequences)
        )


Wanted = Literal["load", "times", "harm"]
"""What a question is after: counters only; its own times too; what it does to the others too."""


class PredictRequest(msgspec.Struct, frozen=True):
    """``POST /v1/predict``: one what-if. ``committed`` carries earlier choices not yet told."""

    candidate: CandidateRequest
    committed: tuple[CandidateRequest, ...] = ()
    scenarios: int = 1
    """Joint scenarios of all response lengths to average over; 1 takes every length's mean."""
    wanted: Wanted = "harm"


class PredictBatchRequest(msgspec.Struct, frozen=True):
    """``POST /v1/predict/batch``: one what-if for each candidate, each without the others."""

    candidates: tuple[CandidateRequest, ...]
    committed: tuple[CandidateRequest, ...] = ()
    scenarios: int = 1


class PredictResponse(msgspec.Struct, frozen=True):
    """The answer to a what-if, with the counters that heuristics use."""

    instance: str
    prediction: Prediction | None
    """Means over the scenarios; None if only the load was wanted."""
    spread: PredictionSpread | None
    """Comes with the prediction."""
    load: EngineLoad
    state_step: int


class PredictBatchResponse(msgspec.Struct, frozen=True):
    """Answers in the order of the candidates."""

    answers: tuple[PredictResponse, ...]


class InstanceQuestion(msgspec.Struct, frozen=True):
    """What of a question to several predictors is one instance's own."""

    instance: str
    committed: tuple[CandidateRequest, ...] = ()
    """As in ``PredictRequest``."""
    cached_tokens: Tokens = 0
    """Takes the candidate's place."""


class PredictSharedRequest(msgspec.Struct, frozen=True):
    """``POST /v1/predict/shared``: one what-if at each of several instances whose predictors share a port."""

    candidate: CandidateRequest
    questions: tuple[InstanceQuestion, ...]
    scenarios: int = 1
    wanted: Wanted = "harm"

    def to(self, question: InstanceQuestion) -> PredictRequest:
        """What that instance's predictor is asked."""
        candidate = self.candidate
        if question.cached_tokens:
            candidate = msgspec.structs.replace(candidate, cached_tokens=question.cached_tokens)
        return PredictRequest(candidate, question.committed, self.scenarios, self.wanted)


class PredictSharedResponse(msgspec.Struct, frozen=True):
    """The answers that there are: a predictor that cannot answer leaves the others theirs."""

    answers: tuple[PredictResponse, ...]


SHARED_PLACE = b"/of/"
"""Before an instance's name it is where its predictor is found on a shared port."""


class Served(msgspec.Struct, frozen=True):
    """What a router saw of a request that it had sent to this predictor's instance."""

    id: str
    ttft_s: float
    """From the question about it to the first byte of its answer."""


class CommitRequest(msgspec.Struct, frozen=True):
    """``POST /v1/commit``: this request was sent to this predictor's instance."""

    candidate: CandidateRequest
    served: tuple[Served, ...] = ()
    """Of earlier ones, since the last time it was told."""


class ReleaseRequest(msgspec.Struct, frozen=True):
    """``POST /v1/release``: a committed request will not arrive after all."""

    id: str


class StateResponse(msgspec.Struct, frozen=True):
    """``GET /v1/state``: what the mirror holds, in brief, and whether it is trusted."""

    instance: str
    ready: bool
    state_step: int
    state_age_s: float
    load: EngineLoad
    model_version: str
    problem: str = ""
    outside_s: float = 0.0
    """Time outside of the engine that predictions count on."""
    calibration: CalibrationStatus | None = None
    """None while the step times are not being calibrated."""

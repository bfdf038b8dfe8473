"""One predictor at work: the feed it follows, the forecaster it asks, the HTTP answers it gives."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from block.config import PredictorConfig
from block.errors import FeedError, StateError
from block.http.message import Response
from block.latency.load import load_latency
from block.messages import (
    CandidateRequest,
    CommitRequest,
    PredictBatchRequest,
    PredictBatchResponse,
    PredictRequest,
    PredictResponse,
    ReleaseRequest,
    Wanted,
)
from block.simulation.what_if import WhatIf, warm_up
from block.types import CalibrationStatus
from predictor.calibration import FeedCalibration
from predictor.feed_reader import FeedReader
from predictor.forecaster import BackEnd, Forecaster
from predictor.ledger import Ledger
from predictor.metrics import PredictorMetrics, metrics_page

MessageT = TypeVar("MessageT")

MAX_SCENARIOS = 64
MAX_RUNS = 4096
"""Candidates times scenarios of one call: nobody else is answered, and no feed read, until it is done."""
ABSENT_AFTER_S = 60.0
"""Silence after which an engine that need not be there is taken for gone rather than for ill."""

logger = logging.getLogger(__name__)


class PredictorService:
    """Handlers of the predictor's endpoints: a request's body in, an answer out. None of them waits."""

    def __init__(self, config: PredictorConfig) -> None:
        """Reads the latency model; the feed is opened by ``following``."""
        self._config = config
        self._metrics = PredictorMetrics(config.instance)
        self._reader = FeedReader(config.feed, config.instance, on_change=self._notice)
        self._model = load_latency(config.latency)
        self._calibration = FeedCalibration(self._model) if config.settings.calibrate else None
        ledger = Ledger(config.settings.commit_ttl_s)
        self._forecaster = Forecaster(
            config.instance,
            self._model,
            ledger,
            self._reader.mirror,
            expect_arrivals=config.settings.expect_arrivals,
            back_end=_back_end(config.settings.vidur),
        )
        self._preparing = False

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Be ready to answer, then follow the feed for as long as the context lasts."""
        await asyncio.to_thread(warm_up, self._model)
        task = asyncio.create_task(self._reader.follow())
        task.add_done_callback(self._feed_ended)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def predict(self, body: bytes) -> Response:
        """``POST /v1/predict``: 503 while the mirror cannot be trusted, 422 for what could never run."""
        return json_response(self.answer(decode(body, PredictRequest)))

    def answer(self, question: PredictRequest) -> PredictResponse:
        """One what-if. Raises FeedError while the mirror cannot be trusted, StateError for nonsense."""
        candidates = (question.candidate,)
        (answer,) = self._answers(candidates, question.committed, question.scenarios, question.wanted)
        return answer

    def predict_batch(self, body: bytes) -> Response:
        """``POST /v1/predict/batch``: as ``predict``, for many candidates on one state."""
        question = decode(body, PredictBatchRequest)
        answers = self._answers(question.candidates, question.committed, question.scenarios)
        return json_response(PredictBatchResponse(answers))

    def commit(self, body: bytes) -> Response:
        """``POST /v1/commit``: this request is on its way to the instance."""
        message = decode(body, CommitRequest)
        self._forecaster.ledger.commit(message.candidate, time.time())
        for served in message.served:
            self._forecaster.outside.served(served.id, served.ttft_s)
        self._metrics.commits.count()
        self._prepare_soon()
        return Response(204)

    def release(self, body: bytes) -> Response:
        """``POST /v1/release``: a committed request will not arrive after all."""
        self._forecaster.ledger.release(decode(body, ReleaseRequest).id)
        return Response(204)

    def state(self, _: bytes) -> Response:
        """``GET /v1/state``: the mirror in brief."""
        trouble = self.trouble
        answer = self._forecaster.describe(time.time(), not trouble, trouble)
        return json_response(msgspec.structs.replace(answer, calibration=self._calibration_status()))

    def reset_calibration(self, _: bytes) -> Response:
        """``POST /v1/calibration/reset``: forget what was learned of the engine's step times."""
        if self._calibration is not None:
            self._calibration.reset()
            self._forecaster.use(self._calibration.current)
        return Response(204)

    def health(self, _: bytes) -> Response:
        """``GET /health``: 200 once the feed is followed, 503 with the reason otherwise."""
        trouble = self.trouble
        body = {"status": trouble or "ok", "instance": self._config.instance}
        return json_response(body, status=503 if trouble else 200)

    def metrics(self, _: bytes) -> Response:
        """``GET /metrics``."""
        return metrics_page(self.measured)

    @property
    def instance(self) -> str:
        """Whose predictor it is."""
        return self._config.instance

    @property
    def absent(self) -> bool:
        """Whether nothing need be said of it: its engine may be away, and is, or never came."""
        if not self._config.optional:
            return False
        silence_s = time.monotonic() - self._reader.last_message_s
        return not self._reader.mirror.ready or silence_s > ABSENT_AFTER_S

    @property
    def measured(self) -> PredictorMetrics:
        """Its metrics as they are now."""
        self._metrics.ready.set(not self.trouble)
        self._metrics.feed_age_seconds.set(time.monotonic() - self._reader.last_message_s)
        if (status := self._calibration_status()) is not None:
            self._metrics.show_calibration(status)
        return self._metrics

    @property
    def trouble(self) -> str:
        """Why the mirror is not to be trusted; empty when it is."""
        silence_s = time.monotonic() - self._reader.last_message_s
        if not self._reader.synchronised:
            return f"not in step with the engine's state feed: {self._reader.problem}{self._last_good()}"
        if silence_s > self._config.settings.stale_after_s:
            return f"no word from the engine's state feed for {silence_s:.1f} s"
        return ""

    def _answers(
        self,
        candidates: tuple[CandidateRequest, ...],
        committed: tuple[CandidateRequest, ...],
        scenarios: int,
        wanted: Wanted = "harm",
    ) -> tuple[PredictResponse, ...]:
        if not 1 <= scenarios <= MAX_SCENARIOS:
            raise StateError(f"scenarios = {scenarios}: must be within 1..{MAX_SCENARIOS}")
        if (runs := len(candidates) * scenarios) > MAX_RUNS:
            raise StateError(
                f"candidates x scenarios = {runs}: must be at most {MAX_RUNS}; ask several times"
            )
        if trouble := self.trouble:
            raise FeedError(f"{self._config.instance}: {trouble}")
        now_s = time.time()
        for earlier in committed:
            self._forecaster.ledger.commit(earlier, now_s)
        answers = []
        for candidate in candidates:
            begun_s = time.perf_counter()
            answers.append(self._forecaster.answer(candidate, now_s, scenarios, wanted))
            self._metrics.prediction_seconds.observe(time.perf_counter() - begun_s)
        return tuple(answers)

    def _notice(self) -> None:
        self._forecaster.notice(time.time())
        self._metrics.messages.count()
        held = self._reader.mirror.held
        if self._calibration is not None and held is not None and self._calibration.notice(held):
            self._forecaster.use(self._calibration.current)
        self._prepare_soon()

    def _prepare_soon(self) -> None:
        """Behind what is at hand: several changes at once are laid out once."""
        if not self._preparing:
            self._preparing = True
            asyncio.get_running_loop().call_soon(self._prepare)

    def _prepare(self) -> None:
        self._preparing = False
        self._forecaster.prepare(time.time())

    def _calibration_status(self) -> CalibrationStatus | None:
        return None if self._calibration is None else self._calibration.status

    def _feed_ended(self, task: asyncio.Task[None]) -> None:
        """Following ends only with the service, or by an error that ``/health`` must show from now on."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error(
                "%s: following the engine's state feed failed", self._config.instance, exc_info=error
            )
            self._reader.give_up(str(error) or type(error).__name__)

    def _last_good(self) -> str:
        if not self._reader.mirror.ready:
            return ""
        columns = self._reader.mirror.columns()
        return f"; the last good state, of step {columns.step}, is {time.time() - columns.time_s:.1f} s old"


def json_response(value: object, status: int = 200) -> Response:
    """Encode with msgspec, which knows the wire messages."""
    return Response(status, [(b"content-type", b"application/json")], msgspec.json.encode(value))


def _back_end(vidur: Path | None) -> Callable[..., BackEnd]:
    if vidur is None:
        return WhatIf
    from vidur_adapter.vidur_checkout import VidurCheckout
    from vidur_adapter.vidur_what_if import VidurWhatIf

    return partial(VidurWhatIf, VidurCheckout.load(vidur))


def decode(body: bytes, kind: type[MessageT]) -> MessageT:
    """A request's body. Raises StateError that names the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateError(f"{kind.__name__}: {error}") from error

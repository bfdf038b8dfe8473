"""Asks a ``block-length serve`` over HTTP. What it sends is checked before it is believed."""

from __future__ import annotations

from typing import Final

import aiohttp
import msgspec

from block.errors import PredictorError, StateError
from block.lengths import LengthDistribution
from length_estimation.estimator import EstimationRequest, LengthEstimate
from length_estimation.messages import ESTIMATE_PATH, EstimateAnswers, EstimateBatch, EstimateRequest
from length_estimation.prompt_text import MOST_JSON_BYTES, read_prompt

_PATIENCE_S: Final = 5.0
"""Longer than any deadline: a late answer still serves the next request with this prompt."""


class RemoteEstimator:
    """The client's side; one instance per process, on a session that the process owns."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/") + ESTIMATE_PATH
        self._answers = msgspec.json.Decoder(EstimateAnswers)

    async def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """Ask. Raises PredictorError for no answer, or none that is a distribution."""
        body = msgspec.json.encode(EstimateBatch((_shortened(request),)))
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=_PATIENCE_S),
            ) as response:
                if response.status != 200:
                    raise PredictorError(f"{self._url}: status {response.status}")
                answers = self._answers.decode(await response.read())
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            raise PredictorError(f"{self._url}: {type(error).__name__}: {error}") from error
        return self._checked(answers)

    def _checked(self, answers: EstimateAnswers) -> LengthEstimate:
        if len(answers.estimates) != 1:
            raise PredictorError(f"{self._url}: {len(answers.estimates)} answers to one question")
        estimate = answers.estimates[0].estimate
        try:
            LengthDistribution(estimate.quantiles)
        except StateError as error:
            raise PredictorError(f"{self._url}: {error}") from error
        if len(estimate.unbounded) != len(estimate.quantiles):
            raise PredictorError(f"{self._url}: unbounded and quantiles differ in number")
        return estimate


def _shortened(request: EstimationRequest) -> EstimateRequest:
    """A long prompt's ends say as much as all of it."""
    asked = EstimateRequest.of(request)
    if len(request.prompt_json) <= MOST_JSON_BYTES:
        return asked
    text = msgspec.json.encode(read_prompt(request.prompt_json).text)
    return msgspec.structs.replace(asked, prompt=msgspec.Raw(text))

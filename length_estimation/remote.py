"""Asks a ``block-length serve`` over HTTP. What it sends is checked before it is believed."""

from __future__ import annotations

from typing import Final

import msgspec

from block.errors import PredictorError, StateError, TransportError
from block.http.client import Client
from block.http.origin import split_url
from block.lengths import LengthDistribution
from length_estimation.estimator import EstimationRequest, LengthEstimate
from length_estimation.messages import ESTIMATE_PATH, EstimateAnswers, EstimateBatch, EstimateRequest
from length_estimation.prompt_text import MOST_JSON_BYTES, read_prompt

_JSON: Final = ((b"content-type", b"application/json"),)
_PATIENCE_S: Final = 5.0
"""Longer than any deadline: a late answer still serves the next request with this prompt."""


class RemoteEstimator:
    """The asking side, on connections that the process owns."""

    def __init__(self, http: Client, url: str) -> None:
        self._http = http
        self._url = url
        self._origin, prefix = split_url(url)
        self._target = prefix + ESTIMATE_PATH.encode()
        self._answers = msgspec.json.Decoder(EstimateAnswers)

    async def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """Ask. Raises PredictorError for no answer, or none that is a distribution."""
        body = msgspec.json.encode(EstimateBatch((_shortened(request),)))
        try:
            response = await self._http.fetch(
                b"POST", self._origin, self._target, _JSON, body, timeout_s=_PATIENCE_S
            )
            if response.status != 200:
                raise PredictorError(f"{self._url}: status {response.status}")
            answers = self._answers.decode(response.body)
        except (TransportError, OSError, ValueError) as error:  # TimeoutError is an OSError
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

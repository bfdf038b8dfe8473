"""What the predictors of a fleet say when they are asked: loads, the least E2E, the engines' pace."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec

from block.messages import CandidateRequest, PredictRequest, PredictResponse, StateResponse
from block.types import CalibrationStatus, EngineLoad
from deploy.fleet.engine_gauges import EngineGauges
from deploy.fleet.group_state import GroupState
from deploy.fleet.sight import Sight
from global_scheduler.provisioning.base import AS_MODELLED, MeasuredPace

_TYPICAL_TOKENS = (256, 256)
"""Of prompt and response, before any request has been served."""


@dataclass(frozen=True)
class PredictorWord:
    """The answers of one look, by instance; those that did not answer are missing."""

    states: Mapping[str, StateResponse]
    least_e2e_s: float | None = None
    """That a request of the fleet's mean size is predicted to take where it does best."""

    @property
    def pace(self) -> MeasuredPace:
        """The median of what was measured of the engines."""
        found = [one.calibration for one in self.states.values()]
        measured = [status for status in found if status is not None and status.samples]
        return _median_pace(measured) if measured else AS_MODELLED

    @property
    def kv_blocks(self) -> int | None:
        """The fewest that an engine has; None if nobody knows."""
        known = [one.load.total_blocks for one in self.states.values() if one.ready and one.load.total_blocks]
        return min(known, default=None)

    def load(
        self, name: str, gauges: EngineGauges | None, size: tuple[int, int] | None, block_size: int
    ) -> EngineLoad:
        """Of one instance; where its predictor is silent, what its engine counts, with requests of this
        size."""
        if name in self.states:
            return self.states[name].load
        return _counted(gauges, size or _TYPICAL_TOKENS, block_size)


async def ask_predictors(
    sight: Sight, instances: Sequence[GroupState], size: tuple[int, int] | None, key: str
) -> PredictorWord:
    """Ask each for its state, and those that answer for a request of this size."""
    urls = {one.name: one.predictor_url for one in instances if one.predictor_url}
    hosts = {one.name: one.host for one in instances}
    pages = await sight.pages([(hosts[name], f"{url}/v1/state", "") for name, url in urls.items()], key)
    states = {
        name: state for name, url in urls.items() if (state := _state(pages.get(f"{url}/v1/state", "")))
    }
    prompt, output = size or _TYPICAL_TOKENS
    request = PredictRequest(CandidateRequest("provisioning", prompt, output, output))
    question = msgspec.json.encode(request).decode()
    asked = [(hosts[name], f"{urls[name]}/v1/predict", question) for name in states]
    answers = (await sight.pages(asked, key)).values()
    return PredictorWord(states, _least_e2e_s(answers))


def _least_e2e_s(pages: Iterable[str]) -> float | None:
    return min((found for page in pages if (found := _e2e_s(page)) is not None), default=None)


def _e2e_s(page: str) -> float | None:
    try:
        prediction = msgspec.json.decode(page, type=PredictResponse).prediction
    except msgspec.DecodeError:
        return None
    return prediction.e2e_s if prediction and math.isfinite(prediction.e2e_s) else None


def _state(page: str) -> StateResponse | None:
    try:
        return msgspec.json.decode(page, type=StateResponse)
    except msgspec.DecodeError:
        return None


def _median_pace(measured: Sequence[CalibrationStatus]) -> MeasuredPace:
    return MeasuredPace(
        factor=median(status.factor for status in measured),
        offset_s=median(status.offset_s for status in measured),
        context_factor=median(status.context_factor for status in measured),
    )


def _counted(gauges: EngineGauges | None, size: tuple[int, int], block_size: int) -> EngineLoad:
    """Requests that run are taken to be half done."""
    if gauges is None:
        return EngineLoad(0, 0, 0, 0, 0, 0, 0)
    prompt, output = size
    used = math.ceil((prompt + output / 2) / block_size) * gauges.running
    unprocessed = gauges.running * output // 2 + gauges.waiting * (prompt + output)
    return EngineLoad(
        gauges.running, gauges.waiting, 0, 0, used, gauges.waiting * prompt, max(unprocessed, gauges.running)
    )

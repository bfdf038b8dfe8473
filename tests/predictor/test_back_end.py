"""Which simulation a predictor asks."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from feed_messages import snapshot

from block.config import PredictorConfig, PredictorSettings
from block.errors import ConfigError
from block.latency.table import TableLatency
from block.messages import CandidateRequest
from block.simulation.what_if import Newcomer, WhatIf
from block.types import Prediction, PredictionSpread
from predictor.forecaster import Forecaster
from predictor.ledger import Ledger
from predictor.mirror import Mirror
from predictor.service import PredictorService
from vidur_adapter.vidur_checkout import VidurCheckout
from vidur_adapter.vidur_what_if import VidurWhatIf

CHECKOUT = os.environ.get("VIDUR_CHECKOUT")
LATENCY = Path(__file__).parents[2] / "config/latency/a30-llama-2-7b.yaml"


class Doubling(WhatIf):
    """Says that everything takes twice as long."""

    def ask(self, newcomer: Newcomer, *, harm: bool = True) -> tuple[Prediction, PredictionSpread]:
        prediction, spread = super().ask(newcomer, harm=harm)
        return Prediction(2 * prediction.ttft_s, 2 * prediction.e2e_s, 0, 0, 0, 0, 0, "doubled", 1), spread


def test_a_forecaster_asks_the_back_end_that_it_is_given() -> None:
    answers = []
    for back_end in (WhatIf, Doubling):
        mirror = Mirror()
        forecaster = Forecaster("i0", TableLatency.load(LATENCY), Ledger(5.0), mirror, back_end=back_end)
        mirror.apply(snapshot(["a"], 100.0))
        forecaster.notice(100.0)
        answers.append(forecaster.predict(CandidateRequest("new", 100, 20, 50), 100.0).prediction)
    assert answers[1].e2e_s == pytest.approx(2 * answers[0].e2e_s)
    assert answers[1].model_version == "doubled"


@pytest.mark.skipif(CHECKOUT is None, reason="needs a Vidur checkout: set VIDUR_CHECKOUT to its folder")
def test_a_forecaster_with_vidur_answers_by_its_scheduler() -> None:
    answers = []
    for back_end in (WhatIf, partial(VidurWhatIf, VidurCheckout.load(Path(str(CHECKOUT))))):
        mirror = Mirror()
        forecaster = Forecaster("i0", TableLatency.load(LATENCY), Ledger(5.0), mirror, back_end=back_end)
        mirror.apply(snapshot(["a"], 100.0))
        forecaster.notice(100.0)
        answers.append(forecaster.predict(CandidateRequest("new", 100, 20, 50), 100.0).prediction)
    ours, theirs = answers
    assert theirs.model_version.endswith("+vidur")
    assert theirs.e2e_s == pytest.approx(ours.e2e_s, rel=0.05)


def test_a_predictor_whose_vidur_is_none_says_so_at_its_start(tmp_path: Path) -> None:
    config = PredictorConfig(
        instance="i0",
        feed=f"ipc://{tmp_path}/feed",
        latency=LATENCY,
        port=8200,
        settings=PredictorSettings.model_validate({"vidur": tmp_path}),
    )
    with pytest.raises(ConfigError, match="no Vidur checkout"):
        PredictorService(config)

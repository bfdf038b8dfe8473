from __future__ import annotations

import json

import pytest

from exp.emulation_cost import main


def test_the_last_line_has_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--running", "4", "--steps", "20"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < figures["oracle_us"] < 100
    for scheduling in ("sync", "async"):
        measured = figures[scheduling]
        assert measured["steps"] >= 20
        assert 0 < measured["recorder_us"] < 1000
        assert 0 <= measured["drift_p50_us"] <= measured["drift_p99_us"] <= measured["drift_max_us"]

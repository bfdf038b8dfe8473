"""What docs/policies.md says is so: every policy and option has its row, and the example works."""

from __future__ import annotations

import re
import runpy
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from block.config import SchedulerSettings
from global_scheduler.policies import POLICIES, make_policies, make_policy

GUIDE = (Path(__file__).parents[3] / "docs" / "policies.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
YAML = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)


def test_every_policy_has_a_row_and_every_row_a_policy() -> None:
    table = GUIDE.split("## The table")[1].split("## Options")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(POLICIES)


def test_every_option_is_told_with_its_default() -> None:
    section = GUIDE.split("## Options")[1].split("## What a client may say")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")][2:]
    told: dict[str, dict[str, str]] = {}
    names: list[str] = []
    for policies, options, defaults, _ in rows:
        names = re.findall(r"`(\w+)`", policies) or names
        for name in names:
            values = re.split(r", ", defaults.strip().replace("`", ""))
            told.setdefault(name, {}).update(zip(re.findall(r"`(\w+)`", options), values, strict=True))
    real = {
        name: {
            field.name: "none" if field.default is None else str(field.default)
            for field in fields(make_policy(name))  # type: ignore[arg-type]
        }
        for name in POLICIES
    }
    assert told == {name: options for name, options in real.items() if options}


def test_the_settings_shown_are_valid() -> None:
    settings = SchedulerSettings.model_validate(yaml.safe_load(YAML[0])["settings"])
    assert make_policies(settings)["block"].needs.probes == 2


def test_the_example_passes_its_own_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_policies.py").write_text(PYTHON[0])
    (tmp_path / "test_mine.py").write_text(PYTHON[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_policies", raising=False)
    settings = SchedulerSettings.model_validate(yaml.safe_load(YAML[1])["settings"])
    assert make_policies(settings)[settings.policy].preemption_s == 5.0  # type: ignore[attr-defined]
    runpy.run_path(str(tmp_path / "test_mine.py"))["test_patient_block"]()

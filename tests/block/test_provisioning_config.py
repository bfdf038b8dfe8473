"""Wrong settings of provisioning are refused by the name of the field, with what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from block.config import parse_config
from block.errors import ConfigError
from block.fleet_config import FleetConfig

ENGINE = {"model": "/m", "served_model_name": "m", "latency": "/l.yaml"}


def parse(**settings: Any) -> FleetConfig:
    raw = {"name": "lab", "engine": ENGINE, "provisioning": settings}
    return parse_config(raw, FleetConfig, "lab.yaml")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("strategy", "clever", "'static', 'relief', 'preempt' or 'slo'"),
        ("min_instances", 0, "greater than or equal to 1"),
        ("min_instances", 1.5, "integer"),
        ("max_instances", 65, "less than or equal to 64"),
        ("max_instances", "4", "integer"),
        ("interval_s", 0.0, "greater than 0"),
        ("cool_down_s", -1.0, "greater than 0"),
        ("patience_s", "1 min", "number"),
        ("cold_start_s", float("nan"), "finite"),
        ("threshold_s", 90_000.0, "less than or equal to 86400"),
        ("spare_below_s", 0.0, "greater than 0"),
        ("slo_ttft_s", -3.0, "greater than 0"),
        ("slo_e2e_s", True, "number"),
        ("slo_share", 99, "less than or equal to 1"),
        ("horizon_s", 0.0, "greater than 0"),
        ("window_s", None, "number"),
        ("headroom", 11.0, "less than or equal to 10"),
        ("dry_run", "yes", "boolean"),
        ("log", 7, "path"),
        ("latency", "a30.yaml", "unknown"),
    ],
)
def test_a_wrong_value_is_named_with_its_bound(field: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(**{field: value})
    assert f"provisioning.{field}" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_instances": 5, "max_instances": 4}, "lower the one or raise the other"),
        ({"horizon_s": 60.0, "cold_start_s": 60.0}, "horizon_s is not beyond cold_start_s"),
        ({"slo_ttft_s": None}, "slo needs slo_ttft_s or slo_e2e_s; set one"),
        ({"spare_below_s": 70.0}, "spare_below_s must be below threshold_s"),
    ],
)
def test_settings_that_exclude_each_other_are_refused_with_what_to_do(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(**settings)

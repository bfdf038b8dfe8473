"""The dashboard: every metric and label that it names is one that the services really expose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from block.config import InstanceConfig
from block.messages import PredictResponse
from block.types import CalibrationStatus, EngineLoad, Prediction, PredictionSpread
from global_scheduler.fleet import Fleet
from global_scheduler.metrics import SchedulerMetrics
from predictor.metrics import PredictorMetrics, metrics_page

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARD = json.loads((FOLDER / "routing.json").read_text())

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"\{([^}]*)\}")


def queries() -> Iterator[tuple[str, dict[str, Any]]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"], target


def metrics_in(query: str) -> set[str]:
    """Names that are neither functions nor labels nor in brackets."""
    bare = _SELECTOR.sub("", _GROUPING.sub("", re.sub(r"\[[^]]*\]", "", query)))
    return {match[0] for match in _NAME.finditer(bare) if not bare[match.end() :].lstrip().startswith("(")}


def labels_in(query: str) -> set[str]:
    grouped = {name for group in _GROUPING.findall(query) for name in _NAME.findall(group)}
    selected = {
        part.split("=")[0].rstrip("!").strip() for s in _SELECTOR.findall(query) for part in s.split(",")
    }
    return grouped | selected


def exposed() -> dict[str, set[str]]:
    """Sample -> labels, as Prometheus stores them by default, of a scheduler and a predictor at work."""
    found: dict[str, set[str]] = {}
    for text in (scheduler_page(), predictor_page()):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                scraped = {"exported_instance" if name == "instance" else name for name in sample.labels}
                found.setdefault(sample.name, set()).update(scraped)
    return found


def scheduler_page() -> str:
    fleet = Fleet((InstanceConfig(name="a", url="http://127.0.0.1:1"),), 1.0)
    load, prediction = EngineLoad(1, 0, 0, 100, 200, 0, 50), Prediction(0, 1, 0, 0, 0, 0, 0, "m", 1)
    answer = PredictResponse("a", prediction, PredictionSpread(1, 0, 0, 0, 0), load, 1)
    traffic = fleet.instances[0].traffic
    traffic.hear(answer.load, traffic.tally, 0.0)
    metrics = SchedulerMetrics(fleet, worker=0)
    metrics.requests.count(("block", "a", "2xx"))
    metrics.decisions.count(("block", "completion", "none"))
    metrics.receipts.count(("written",))
    metrics.retries.count(("reset",))
    metrics.probes.count(("answered",))
    for family in (metrics.error_s, metrics.error_ratio):
        family.observe(0.1, ("e2e",))
    for family in (metrics.ttft_s, metrics.per_token_s):
        family.observe(0.1, ("chat", "llama"))
    metrics.duration_s.observe(0.1, ("chat", "llama", ""))
    return metrics.exposition()[0].decode()


def predictor_page() -> str:
    metrics = PredictorMetrics("a")
    metrics.show_calibration(CalibrationStatus("v", 1, 1.0, 0.0, 1.0, 0.0, 0.1, 0.1))
    return metrics_page(metrics).body.decode()


def test_each_query_asks_for_what_there_is():
    known = exposed()
    targets_own = {"job", "instance", "worker"}
    assert len(list(queries())) > 30
    for query, target in queries():
        names = metrics_in(query)
        assert names, query
        assert names <= set(known), query
        labels = {label for name in names for label in known[name]} | targets_own
        assert labels_in(query) <= labels, query
        legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert legend <= labels, query


def test_each_metric_of_the_scheduler_is_shown_somewhere():
    """Or it is one of those that only say how large what is shown is."""
    shown = {name for query, _ in queries() for name in metrics_in(query)}
    families = {family.name for family in text_string_to_metric_families(scheduler_page())}
    unshown = {name for name in families if not any(one.startswith(name) for one in shown)}
    assert {name for name in unshown if not name.startswith("process_")} == {"block_outstanding_tokens"}


def test_panels_are_told_apart_and_do_not_overlap():
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        box = panel["gridPos"]
        cells = {
            (column, line)
            for column in range(box["x"], box["x"] + box["w"])
            for line in range(box["y"], box["y"] + box["h"])
        }
        assert not cells & places, panel["title"]
        places |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_scrape_example_is_yaml_with_the_jobs_it_promises():
    scrape = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert [job["job_name"] for job in scrape["scrape_configs"]] == [
        "block-scheduler",
        "block-predictor",
        "vllm",
    ]

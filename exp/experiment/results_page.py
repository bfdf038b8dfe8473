"""The page that tells what experiments came to: Markdown from run folders, figures beside it.

Every number comes from a run's cells, every paper's number and every explanation from its spec.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from block.errors import ConfigError
from exp.experiment.capacity_curve import Capacity, gains
from exp.experiment.check_sections import check_sections, is_check
from exp.experiment.markdown import capacity, difference, interval, ratio, share, table
from exp.experiment.report import Report
from exp.experiment.run_folder import RunFolder
from exp.experiment.summary import curves, groups, ratios

_P99 = "ttft_p99_s"
_MADE_BY = re.compile(r"^`block-exp run` of `([^`]+)`", re.MULTILINE)

HEAD = """# Results

Made by `{command}` from the folders of runs, section by section; do not edit.
With the back end `simulated`, GPUs are step-time models and time is virtual; engines, predictors and policies
are as in service. ± and brackets are 95 % intervals over seeds (Student's t); `>=` and `<=` mean that the
rates which were run end there, `~` that some seeds crossed and some did not.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run's folder, read."""

    name: str
    folder: RunFolder
    report: Report


def write_page(runs: Sequence[Run], page: Path, command: str, *, keep: bool = False) -> None:
    """The page, and its figures in a folder of its name beside it.

    ``keep``: what the page says of other runs stays as it is, with the runs in its order.
    """
    figures = page.parent / page.stem
    figures.mkdir(parents=True, exist_ok=True)
    before = page.read_text(encoding="utf-8") if keep and page.exists() else ""
    sections = _kept_sections(page, before)
    for run in runs:
        sections[run.name] = "\n".join(_section(run, figures))
    checks = check_sections({run.name: run.report for run in runs}, before, list(sections))
    text = "\n".join([HEAD.format(command=command), *checks, *sections.values()])
    page.write_text(text.rstrip() + "\n", encoding="utf-8")


def _kept_sections(page: Path, text: str) -> dict[str, str]:
    """By their runs' names, in the page's order; raises ConfigError for a section that names none."""
    sections = {}
    for section in text.split("\n## ")[1:]:
        if is_check(section):
            continue
        named = _MADE_BY.search(section)
        if named is None:
            raise ConfigError(f"{page}: section {section.splitlines()[0]!r} names no run; take it out")
        sections[named[1]] = f"## {section.rstrip()}\n"
    return sections


_OVER_LOAD = frozenset(("load", "capacity"))
"""Figures of a spec whose rates were chosen to tell capacities from."""


def _section(run: Run, figures: Path) -> Iterator[str]:
    spec, report = run.report.spec, run.report
    yield f"## {spec.title}"
    yield _made_by(run)
    if spec.notes:
        yield f"{spec.notes.strip()}\n"
    if spec.published_qps or _OVER_LOAD & set(spec.figures):
        yield from _capacities(report)
    yield from _tabulated(report)
    for baseline in spec.baselines:
        yield from _gains(report, baseline)
    for drawn in report.figures:
        name = f"{run.name}-{drawn.name}"
        shutil.copyfile(drawn, figures / name)
        if drawn.suffix == ".png":
            yield f"![{spec.title}]({figures.name}/{name})\n"


def _made_by(run: Run) -> str:
    spec, header = run.report.spec, run.folder.header
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    machine: dict[str, Any] = header["machine"]
    missing = f" **{run.report.missing} cells are missing.**" if run.report.missing else ""
    return (
        f"`block-exp run` of `{run.name}`, {header['date']}, back end {header['backend']}: "
        f"{len(run.report.rows)} cells of {spec.requests:,} requests, {len(spec.seeds)} seed"
        f"{'s' * (len(spec.seeds) > 1)}; Python {header['python']}, {versions}; {machine['cpus']} CPUs, "
        f"{machine['platform']}.{missing}\n"
    )


def _capacities(report: Report) -> Iterator[str]:
    """A row per policy, a column per engine, workload and SLO; the paper's figure and the difference."""
    found = report.capacities()
    if not found:
        return
    yield "Capacity, requests/s: the rate at which P99 TTFT passes the SLO.\n"
    head = ["policy", *(f"{engine}, {workload}, {slo_s:g} s" for engine, workload, slo_s in found)]
    rows = []
    for policy in report.spec.policies:
        cells = []
        for (engine, workload, slo_s), by in found.items():
            paper = report.spec.published_qps.get(f"{engine}/{workload}/{slo_s:g}s", {}).get(policy)
            cells.append(capacity(by.get(policy)) + _beside(by.get(policy), paper))
        rows.append([policy, *cells])
    yield from table(head, rows)


def _tabulated(report: Report) -> Iterator[str]:
    """A row per policy, a column per rate, for each of the measures that the spec names."""
    for (engine, workload), rows in groups(report.rows).items():
        for measure in report.spec.tables:
            yield f"`{measure}` by requests/s ({engine}, {workload}):\n"
            by = curves(rows, measure)
            rates = sorted({row.rate_per_s for row in rows})
            yield from table(
                ["policy", *(f"{rate:g}" for rate in rates)],
                [
                    [policy, *(interval(one, 3) for _, one in by[policy])]
                    for policy in report.spec.policies
                    if policy in by
                ],
            )


def _beside(found: Capacity | None, paper: str | None) -> str:
    if paper is None:
        return ""
    told = "" if found is None else difference(found.rate_per_s.mean, paper, found.bound)
    return f" (paper {paper}{'; ' * bool(told)}{told})"


def _gains(report: Report, baseline: str) -> Iterator[str]:
    """Capacity and P99 TTFT against one policy, seed by seed."""
    for (engine, workload), rows in groups(report.rows).items():
        slos = report.spec.slo_ttft_s
        found = [gains(rows, _P99, slo_s, baseline) for slo_s in slos]
        tails = ratios(rows, _P99, baseline)
        rates = sorted({row.rate_per_s for row in rows})
        yield f"Against **{baseline}** on the same requests ({engine}, {workload}):\n"
        head = [
            "policy",
            *(f"capacity at {slo_s:g} s" for slo_s in slos),
            *(f"P99 TTFT at {rate:g}/s" for rate in rates),
        ]
        yield from table(
            head,
            [
                [
                    policy,
                    *(share(by[policy]) for by in found),
                    *(ratio(tails.get(policy, {}).get(rate)) for rate in rates),
                ]
                for policy in found[0]
            ],
        )

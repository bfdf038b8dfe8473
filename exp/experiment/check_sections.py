"""What the page of results says of all runs together: ours beside the paper's, its findings, our goals.

A table each, whose rows begin with the name of their run, so that the rows of other runs can be kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exp.experiment.claims import Goal, PublishedFigure, WidestGain
from exp.experiment.markdown import capacity, difference, interval, ratio, share, table
from exp.experiment.report import Report
from exp.experiment.summary import Interval, Row
from exp.experiment.verdict import ABOUT, Reached, compared, reached, widest

Cells = tuple[str, ...]
_AGAIN = "as above"
_ROW = re.compile(r"^\| (.+) \|$")


@dataclass(frozen=True, slots=True)
class Check:
    """One table over all runs."""

    title: str
    about: str
    head: Cells
    """Without the run."""
    rows: Callable[[Report], Iterator[Cells]]


def check_sections(reports: Mapping[str, Report], page: str, order: Sequence[str]) -> Iterator[str]:
    """Sections for the reports by their runs' names, and what ``page`` says of other runs in ``order``."""
    for check in CHECKS:
        kept = _kept(page, check)
        rows = [
            (run, *cells)
            for run in order
            for cells in (_brief(check.rows(reports[run])) if run in reports else kept.get(run, ()))
        ]
        if rows:
            yield f"## {check.title}"
            yield f"{check.about}\n"
            yield from table(("run", *check.head), rows)


def _brief(rows: Iterable[Cells]) -> Iterator[Cells]:
    """A long last cell that is the one before it again is not told again."""
    before = ""
    for *cells, last in rows:
        yield (*cells, _AGAIN if last == before and len(last) > len(_AGAIN) else last)
        before = last or before


def is_check(section: str) -> bool:
    """Whether a section of a page, without its ``## ``, is one of these."""
    return section.splitlines()[0] in {check.title for check in CHECKS}


def _kept(page: str, check: Check) -> dict[str, list[Cells]]:
    """Rows by run, as a page has them; none of a page with another head."""
    found: dict[str, list[Cells]] = {}
    for section in page.split("\n## ")[1:]:
        if section.splitlines()[0] != check.title:
            continue
        lines = [match[1].split(" | ") for line in section.splitlines() if (match := _ROW.match(line))]
        for run, *cells in lines[1:] if lines and lines[0] == ["run", *check.head] else ():
            found.setdefault(run, []).append(tuple(cells))
    return found


def _published(report: Report) -> Iterator[Cells]:
    for (engine, workload, slo_s), by in report.capacities().items():
        key = f"{engine}/{workload}/{slo_s:g}s"
        why = report.spec.published_qps_why.get(key, "")
        for policy, paper in report.spec.published_qps.get(key, {}).items():
            if (ours := by.get(policy)) is not None:
                apart = difference(ours.rate_per_s.mean, paper, ours.bound)
                what = f"capacity within {slo_s:g} s, requests/s"
                yield what, policy, f"{engine}, {workload}", capacity(ours), paper, apart, why
    for figure in report.spec.published:
        yield _figure(figure, report.rows)


def _figure(figure: PublishedFigure, rows: Sequence[Row]) -> Cells:
    place = (figure.policy, *figure.place, figure.rate_per_s)
    mine = [row for row in rows if (row.policy, row.engine, row.workload, row.rate_per_s) == place]
    ours = Interval.of([row.figures[figure.measure] * figure.scale for row in mine])
    return (
        figure.what,
        figure.policy,
        f"{figure.engine}, {figure.workload}, {figure.rate_per_s:g}/s",
        "-" if math.isnan(ours.mean) else interval(ours, 2),
        figure.value,
        difference(ours.mean, figure.value),
        figure.why,
    )


def _orders(report: Report) -> Iterator[Cells]:
    for order in report.spec.expected:
        setting = f"{order.engine}, {order.workload}, {order.slo_ttft_s:g} s"
        for pair in compared(order, report.rows):
            why = order.why if pair.holds != "yes" else ""
            yield f"{pair.left} {pair.relation} {pair.right}", setting, share(pair.gain), pair.holds, why
    for claim in report.spec.widest:
        yield from _widest(claim, report.rows)


def _widest(claim: WidestGain, rows: Sequence[Row]) -> Iterator[Cells]:
    found, holds = widest(claim, rows)
    if found:
        yield (
            f"{claim.policy} gains most over {claim.over} at {claim.engine}",
            f"all engines, {claim.workload}, {claim.slo_ttft_s:g} s",
            "; ".join(f"{engine} {share(gain)}" for engine, gain in found.items()),
            holds,
            claim.why if holds != "yes" else "",
        )


def _goals(report: Report) -> Iterator[Cells]:
    for goal in report.spec.goals:
        for one in reached(goal, report.rows):
            ours = ratio(one.tail) if one.gain is None else share(one.gain)
            yield _wanted(goal, one), one.policy, f"{goal.engine}, {goal.workload}", ours, one.verdict


def _wanted(goal: Goal, one: Reached) -> str:
    against = f"against {one.over}" + (f", the best of {len(goal.over)}" if len(goal.over) > 1 else "")
    if one.rate_per_s is None:
        return f"capacity within {goal.slo_ttft_s:g} s {100 * (goal.capacity_gain or 0):+g} % {against}"
    return f"P99 TTFT {-100 * (goal.tail_cut or 0):+g} % at {one.rate_per_s:g}/s {against}"


CHECKS = (
    Check(
        "Check against the paper",
        "A difference is against the middle of what the paper gives, `within` if ours lies in its range. "
        "What the paper gives and no run tells stands in docs/experiments.md.",
        ("figure", "policy", "setting", "ours", "paper", "difference", "why"),
        _published,
    ),
    Check(
        "The paper's order of policies",
        "By capacity, on the same requests seed by seed: how much more the right one carries. `<`: yes if "
        "its 95 % interval lies above 0; `<=`: no if it lies below; `~`: yes if the mean is within "
        f"{100 * ABOUT:g} %. With one seed, where no interval is given, the sign decides.",
        ("expected", "setting", "gain of the right", "holds", "why"),
        _orders,
    ),
    Check(
        "Goals",
        "What the project set out to gain with wrong lengths. `met` or `missed`: the 95 % interval lies on "
        "that side; `open`: on both.",
        ("goal", "policy", "setting", "reached", "verdict"),
        _goals,
    ),
)

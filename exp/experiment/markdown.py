"""Numbers and tables as the page of results has them, in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence

from exp.experiment.capacity_curve import Capacity
from exp.experiment.summary import Interval

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Its lines, and an empty one."""
    yield table_row(head)
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield table_row(row)
    yield ""


def table_row(cells: Sequence[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def capacity(found: Capacity | None) -> str:
    """Requests per second with their interval; without one where the rates ended."""
    if found is None or math.isnan(found.rate_per_s.mean):
        return "-"
    if found.bound in ("<=", ">="):  # no seed crossed: there is no interval to tell
        return f"{found.bound}{found.rate_per_s.mean:.1f}"
    return f"{found.bound}{interval(found.rate_per_s)}"


def interval(found: Interval, digits: int = 1) -> str:
    """A mean and the half width of its interval, where there is one."""
    half = "" if math.isnan(found.half) else f" ± {found.half:.{digits}f}"
    return f"{found.mean:.{digits}f}{half}"


def difference(ours: float, paper: str, bound: str = "") -> str:
    """Against what the paper says; against the middle of its range, if we are not within it.

    ``bound`` is that of a capacity. Empty if there is nothing to compare.
    """
    numbers = [float(number) for number in _NUMBER.findall(paper)]
    if not numbers or math.isnan(ours):
        return ""
    if not bound and len(numbers) > 1 and min(numbers) <= ours <= max(numbers):
        return "within"
    return f"{bound}{100 * (ours / (sum(numbers) / len(numbers)) - 1):+.0f} %"


def share(gain: Capacity) -> str:
    """A gain in per cent."""
    half = "" if math.isnan(gain.rate_per_s.half) else f" ± {100 * gain.rate_per_s.half:.1f}"
    return f"{gain.bound}{100 * gain.rate_per_s.mean:+.1f}{half} %"


def ratio(found: Interval | None) -> str:
    """Of logarithms, as a change in per cent with both ends of its interval."""
    if found is None or math.isnan(found.mean):
        return "-"
    change = f"{100 * math.expm1(found.mean):+.0f} %"
    if math.isnan(found.half):
        return change
    low, high = math.expm1(found.mean - found.half), math.expm1(found.mean + found.half)
    return f"{change} ({100 * low:+.0f} to {100 * high:+.0f})"

"""The results of an emulation check for people: a table on the screen, a page and figures for docs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from exp.check_result import GOALS, CellResult, all_cells
from exp.serving_metrics import MEASURES, STATISTICS, ServingMetrics

_SHOWN = (*((measure, "mean") for measure in MEASURES), ("throughput", ""))
_TOGETHER = {
    "mean": ("mean of the errors", "{:+.1%}"),
    "rms": ("root mean square of the errors", "{:.1%}"),
    "floor_rms": ("the same of real runs among themselves", "{:.1%}"),
}
PAGE = "emulation-validation.md"
_CPU = "vLLM 0.32's CPU backend, one thread, real forward passes of tiny random Llamas"


def result_table(results: Sequence[CellResult]) -> Table:
    """One row per cell: emulated against real, with the noise floor behind it."""
    table = Table(title="emulated against real, mean (every second real run against the others)")
    table.add_column("load")
    for measure, _ in _SHOWN:
        table.add_column(measure.upper() if measure in MEASURES else measure, justify="right")
    table.add_column("virtual E2E", justify="right")
    table.add_column("speed-up", justify="right")
    for result in results:
        cells = [_beside(result.errors, result.floor, _key(shown)) for shown in _SHOWN]
        virtual = _percent(result.virtual_errors["e2e_mean_err"])
        table.add_row(f"{result.model} {result.cell.name}", *cells, virtual, f"{result.speedup:.0f} x")
    return table


def write_report(
    results: Sequence[CellResult], folder: Path, summary: dict[str, Any], made: str, device: str = ""
) -> None:
    """``emulation-validation.md`` and its figures as PNG and SVG; ``made`` says by what command.

    ``device`` names the step times of an emulated device that was the truth.
    """
    from exp.check_figures import draw

    folder.mkdir(parents=True, exist_ok=True)
    figures = draw(results, folder / "figures")
    truth = f"an emulated device that takes the times of `{device}` steadily" if device else _CPU
    pictures = [figure.relative_to(folder) for figure in figures]
    text = "\n".join(_page(results, summary, pictures, made, truth))
    (folder / PAGE).write_text(text + "\n", encoding="utf-8")


def _page(
    results: Sequence[CellResult], summary: dict[str, Any], figures: list[Path], made: str, truth: str
) -> Iterable[str]:
    day = datetime.now(UTC).date().isoformat()
    yield from (
        "# Emulation against the real engine",
        "",
        f"Made by `{made}` on {day}.",
        f"Truth: {truth};",
        "recorded on one seed and other lengths,",
        "judged on the loads below. Rates are shares of the engine's capacity; bursty is gamma 0.25.",
        "Each load was run several times for real, and emulated: the same requests at the same times. The",
        "real engine is the very process that was recorded; recording lies before, between and after.",
        "",
    )
    for figure in figures:
        yield f"![{figure.stem}]({figure.as_posix()})"
    yield from ("", "## Errors of the means", "")
    yield "Emulated against real; in brackets every second real run against the others."
    yield ""
    yield from _errors(results)
    yield from ("", "All loads together:", "")
    yield from _together(results)
    yield from ("", *_goals(summary))
    again = "; in brackets every second emulated run against the others" if results[0].virtual_floor else ""
    yield from ("", f"Virtual time against real-time emulation, every step at its mean duration{again}:", "")
    yield from _virtual(results)
    for measure in MEASURES:
        yield from ("", f"## {measure.upper()}, ms: mean / p50 / p90 / p99", "")
        yield from _measure(results, measure)
    yield from ("", "## Throughput, preemptions, KV use", "")
    yield from _others(results)
    yield from ("", "## The worst cells", "", "```", json.dumps(summary), "```")


def _errors(results: Sequence[CellResult]) -> Iterable[str]:
    names = [measure.upper() if measure in MEASURES else measure for measure, _ in _SHOWN]
    yield from _header(["model", "load", *names])
    for result in results:
        cells = [_beside(result.errors, result.floor, _key(shown)) for shown in _SHOWN]
        yield _row([result.model, result.cell.name, *cells])


def _together(results: Sequence[CellResult]) -> Iterable[str]:
    yield from _header(["", *(measure.upper() if measure in MEASURES else measure for measure, _ in _SHOWN)])
    found = all_cells(results)
    for kind, (name, form) in _TOGETHER.items():
        yield _row([name, *(form.format(found[kind][_key(shown)]) for shown in _SHOWN)])


def _goals(summary: dict[str, Any]) -> Iterable[str]:
    ttft, others, throughput = (GOALS[f"{name}_err"] for name in ("ttft_mean", "e2e_mean", "throughput"))
    yield "Beyond the figures in brackets, TTFT is to be within"
    yield f"{ttft:.0%}, TPOT, ITL and E2E within {others:.0%}, throughput within {throughput:.0%}."
    yield f"All of that holds at {summary['goals_held']} of {summary['cells']} loads. Were the second half"
    yield "of the real runs the emulation, and the first half the truth, it would at"
    yield f"{summary['goals_held_by_real_runs']}."


def _virtual(results: Sequence[CellResult]) -> Iterable[str]:
    names = [measure.upper() if measure in MEASURES else measure for measure, _ in _SHOWN]
    yield from _header(["model", "load", *names, "times faster"])
    for result in results:
        cells = [_beside(result.virtual_errors, result.virtual_floor, _key(shown)) for shown in _SHOWN]
        yield _row([result.model, result.cell.name, *cells, f"{result.speedup:.0f}"])


def _measure(results: Sequence[CellResult], measure: str) -> Iterable[str]:
    yield from _header(["model", "load", "real", "emulated", "virtual"])
    for result in results:
        runs = (result.real, result.emulated, result.virtual)
        yield _row(
            [result.model, result.cell.name, *(_four(ServingMetrics.mean_of(r), measure) for r in runs)]
        )


def _others(results: Sequence[CellResult]) -> Iterable[str]:
    kinds = ("real", "emulated", "virtual")
    names = ["tokens/s", "preemptions", "KV mean", "KV max"]
    yield from _header(["model", "load", *(f"{name}: {' / '.join(kinds)}" for name in names)])
    for result in results:
        means = [ServingMetrics.mean_of(runs) for runs in (result.real, result.emulated, result.virtual)]
        cells = (
            [f"{mean.throughput_per_s:.1f}" for mean in means],
            [str(mean.preemptions) for mean in means],
            [f"{mean.kv_use_mean:.0%}" for mean in means],
            [f"{mean.kv_use_max:.0%}" for mean in means],
        )
        yield _row([result.model, result.cell.name, *(" / ".join(cell) for cell in cells)])


def _four(metrics: ServingMetrics, measure: str) -> str:
    spread = metrics.spread(measure)
    return " / ".join(f"{getattr(spread, name) * 1e3:.1f}" for name in STATISTICS)


def _key(shown: tuple[str, str]) -> str:
    return "_".join(part for part in (*shown, "err") if part)


def _beside(errors: dict[str, float], floor: dict[str, float] | None, key: str) -> str:
    return _percent(errors[key]) + (f" ({_percent(floor[key])})" if floor else "")


def _percent(share: float) -> str:
    return f"{share:+.1%}"


def _header(names: Sequence[str]) -> Iterable[str]:
    yield _row(names)
    yield "|---" * len(names) + "|"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

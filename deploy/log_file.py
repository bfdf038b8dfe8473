"""A server's log file: what in it explains a failure, and how to follow it as it grows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_TAIL_BYTES = 256 * 1024
_EXCEPTION = re.compile(r"\b(?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)\b(?:: .*)?$")
_SECOND_HAND = ("See root cause above", "root cause")
_LONGEST_LINE = 300


def last_meaningful_line(log: Path) -> str:
    """The line that best says why the process ended: its last own exception, else its last words."""
    lines = [line.strip() for line in read_tail(log).splitlines() if line.strip()]
    for line in reversed(lines):
        found = _EXCEPTION.search(line)
        if found and not any(phrase in line for phrase in _SECOND_HAND):
            return found.group()[:_LONGEST_LINE]
    return lines[-1][:_LONGEST_LINE] if lines else ""


def read_tail(log: Path) -> str:
    """The end of a log; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def follow(logs: list[Path], goes_on: Callable[[], bool], pause_s: float = 0.2) -> Iterator[tuple[str, str]]:
    """``(process name, line)`` of all logs as they grow, from their tails on, while ``goes_on()``."""
    offsets = {log: max(0, _size(log) - 4096) for log in logs}
    while True:
        last_round = not goes_on()
        for log in logs:
            if _size(log) <= offsets[log]:
                continue
            with log.open("rb") as file:
                file.seek(offsets[log])
                fresh = file.read()
            whole = fresh if last_round else fresh[: fresh.rfind(b"\n") + 1]
            offsets[log] += len(whole)
            for line in whole.decode("utf-8", errors="replace").splitlines():
                yield log.stem, line
        if last_round:
            return
        time.sleep(pause_s)


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0

"""Other processes' work is told from our own and from that of our children."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from exp.other_work import OtherWork

SPIN = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
WATCHED_S = 1.5


@pytest.fixture
def elsewhere() -> int:
    """A busy process that is nobody's child here."""
    # Without the starter's pipes, whose end the starter's own parent waits for.
    silent = "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"
    command = f"subprocess.Popen([sys.executable, '-c', {SPIN!r}], {silent})"
    starter = f"import subprocess, sys; print({command}.pid)"
    done = subprocess.run([sys.executable, "-c", starter], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_our_own_work_and_our_childrens_do_not_count() -> None:
    child = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        begun_s, ours_s = time.monotonic(), time.process_time()
        others, machine = OtherWork(), psutil.cpu_times()
        while time.monotonic() < begun_s + WATCHED_S:
            pass
        spent = [now - was for now, was in zip(psutil.cpu_times(), machine, strict=True)]
        busy_cores = (sum(spent) - spent[3] - spent[4]) / WATCHED_S
        # What else the machine does is at most the rest, and the child took some of that.
        assert others.cores < busy_cores - (time.process_time() - ours_s) / WATCHED_S
    finally:
        child.kill()
        child.wait()


def test_work_elsewhere_counts(elsewhere: int) -> None:
    try:
        others = OtherWork()
        time.sleep(WATCHED_S)
        assert others.cores > 0.2
    finally:
        os.kill(elsewhere, 9)

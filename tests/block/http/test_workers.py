"""A worker that stops giving signs of life is replaced; one that has not begun to is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PROGRAM = """
import os, time
from block.http.workers import supervise

def work(number, lifeline, pulse):
    os.write(1, b"%d\\n" % number)  # at once, or two workers' lines may mix
    if number == 1:
        time.sleep(2.0)  # has never given any
    while True:
        pulse()
        time.sleep(0.05)

supervise(2, work, silence_s=0.5)
"""


def test_a_stopped_worker_is_replaced() -> None:
    argv = [sys.executable, "-c", _PROGRAM]
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(argv, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as supervisor:
        try:
            assert supervisor.stdout is not None
            assert {supervisor.stdout.readline(), supervisor.stdout.readline()} == {b"0\n", b"1\n"}
            children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children")
            first, second = (int(pid) for pid in children.read_text().split())
            time.sleep(0.2)
            os.kill(first, signal.SIGSTOP)
            assert supervisor.stdout.readline() == b"0\n"
            assert str(second) in children.read_text().split()
            supervisor.terminate()
            _, log = supervisor.communicate(timeout=10)
        finally:
            supervisor.terminate()  # or a failure would wait for it for ever
    assert log.count(b"no sign of life") == 1


_ENDED_WHILE_FORKING = """
import os, signal, time
from block.http.workers import supervise

fork = os.fork

def fork_and_be_ended():
    pid = fork()
    if pid:
        os.kill(os.getpid(), signal.SIGTERM)
    return pid

os.fork = fork_and_be_ended
supervise(1, lambda number, lifeline, pulse: time.sleep(60))
"""


def test_an_end_that_comes_while_a_worker_is_made_reaches_it() -> None:
    argv = [sys.executable, "-c", _ENDED_WHILE_FORKING]
    subprocess.run(argv, cwd=Path(__file__).parents[3], check=True, timeout=10)

"""A journal survives kills, cuts and restarts, and knows damage from a torn end."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from packs import HEADER

from block.errors import PackError
from block.latency.journal import JournalStep, JournalWriter, pack_from_journal, read_journal
from block.types import BatchShape


def step(number: int) -> JournalStep:
    host_s = math.nan if number == 1 else 0.001
    return JournalStep(
        number, 100.0 + number, 100.5 + number, 0.5, host_s, BatchShape(3, number, 50, 60, number + 1)
    )


def write(path: Path, steps: int, header=HEADER) -> None:
    writer = JournalWriter(path, header)
    for number in range(1, steps + 1):
        writer.append(step(number))
    writer.close()


def test_what_is_written_becomes_a_pack(tmp_path: Path) -> None:
    write(tmp_path / "j", 4)
    pack = pack_from_journal(tmp_path / "j", notes="mine")
    assert pack.header == replace(HEADER, notes="mine")
    assert pack.submit_s.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert pack.decode_tokens.tolist() == [1, 2, 3, 4]
    assert np.isnan(pack.host_s[0])


def test_a_cut_anywhere_costs_at_most_the_last_step(tmp_path: Path) -> None:
    write(tmp_path / "whole", 5)
    data = (tmp_path / "whole").read_bytes()
    cut = tmp_path / "cut"
    for length in range(len(data) + 1):
        cut.write_bytes(data[:length])
        try:
            steps = len(pack_from_journal(cut))
        except PackError:
            steps = 0
        frame = len(data) - data.rindex(b"S", 0, len(data) - 50)
        assert steps >= 5 - math.ceil((len(data) - length) / frame)


def test_a_flipped_byte_is_named_or_costs_the_end(tmp_path: Path) -> None:
    write(tmp_path / "whole", 30)
    data = (tmp_path / "whole").read_bytes()
    spoilt, whole = tmp_path / "spoilt", pack_from_journal(tmp_path / "whole")
    for at in range(len(data)):
        spoilt.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        try:
            found = pack_from_journal(spoilt)
        except PackError:
            continue
        assert found.decode_tokens.tolist() == whole.decode_tokens[: len(found)].tolist()
        assert len(found) >= len(whole) - 1, at


def test_a_disk_that_is_full_in_the_midst_of_a_step_costs_that_step_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, write_all = JournalWriter(tmp_path / "j", HEADER), os.write
    writer.append(step(1))
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda file, data: write_all(file, data[:9]))
        with pytest.raises(OSError, match="No space left"):
            writer.append(step(2))
    writer.close()
    write(tmp_path / "j", 1)
    assert [len(session.rows) for session in read_journal(tmp_path / "j")] == [1, 1]


def test_a_killed_writer_is_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "j"
    code = (
        "import sys; sys.path[:0] = ['tests/support', 'tests/block/latency']\n"
        "from pathlib import Path; from packs import HEADER; import test_journal as t\n"
        "writer = t.JournalWriter(Path(sys.argv[1]), HEADER)\n"
        "n = 0\n"
        "while True:\n    n += 1\n    writer.append(t.step(n))\n    print(n, flush=True)\n"
    )
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(500)][-1]
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait(timeout=10)
    with path.open("ab") as file:
        file.write(b"S\x48\0")  # a frame cut short
    write(path, 3)
    sessions = read_journal(path)
    assert len(sessions) == 2
    assert len(sessions[0].rows) >= told
    pack = pack_from_journal(path)
    assert len(pack) == len(sessions[0].rows) + 3
    assert np.diff(pack.step)[-3] == 2, "a hole between the sessions"
    assert (np.diff(pack.submit_s) > 0).all()


def test_another_engine_may_not_go_on(tmp_path: Path) -> None:
    write(tmp_path / "j", 2)
    with pytest.raises(PackError, match=r"another engine.*kv_blocks"):
        JournalWriter(tmp_path / "j", replace(HEADER, kv_blocks=7))
    write(tmp_path / "j", 2, replace(HEADER, created_at="later", notes="again"))
    assert len(pack_from_journal(tmp_path / "j")) == 4


def test_two_engines_may_not_write_at_once(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "j", HEADER)
    with pytest.raises(PackError, match="another engine is recording"):
        JournalWriter(tmp_path / "j", HEADER)
    writer.close()


@pytest.mark.parametrize(
    ("data", "named"),
    [(b"", "no recording"), (b"kind: table", "no recording journal"), (b"S", "no recording")],
)
def test_a_foreign_file_is_named(tmp_path: Path, data: bytes, named: str) -> None:
    (tmp_path / "j").write_bytes(data)
    with pytest.raises(PackError, match=named):
        pack_from_journal(tmp_path / "j")


def test_a_recording_without_steps_is_said_to_be_one(tmp_path: Path) -> None:
    write(tmp_path / "j", 0)
    with pytest.raises(PackError, match="no step yet"):
        pack_from_journal(tmp_path / "j")


def test_an_append_costs_little(tmp_path: Path) -> None:
    writer, record = JournalWriter(tmp_path / "j", HEADER), step(2)
    started_s = time.thread_time()
    for _ in range(2000):
        writer.append(record)
    assert (time.thread_time() - started_s) / 2000 < 60e-6
    writer.close()

"""The file of a run: what is written is read again, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from block.errors import ConfigError
from exp.run_log import RequestLog, RunHeader, RunLog

RUN = RunLog(
    RunHeader("virtual", "made up", 12.5, 0.25, 1, 0.1, 0.2),
    (RequestLog(0.0, 0.001, 5, 2, (0.1, 0.2)), RequestLog(1.0, 1.0, 7, 3, (), "no connection")),
)


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "run.jsonl"
    RUN.save(path)
    assert RunLog.load(path) == RUN
    assert [request.prompt_tokens for request in RUN.good] == [5]
    assert [each.name for each in path.parent.iterdir()] == ["run.jsonl"]


def test_what_is_wrong_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with pytest.raises(ConfigError, match="cannot be read"):
        RunLog.load(path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="empty"):
        RunLog.load(path)
    RUN.save(path)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], lines[1], lines[2][:-9]]))
    with pytest.raises(ConfigError, match=r"run\.jsonl:3: "):
        RunLog.load(path)
    path.write_bytes(lines[0].replace(b'"format":1', b'"format":9'))
    with pytest.raises(ConfigError, match="format = 9"):
        RunLog.load(path)

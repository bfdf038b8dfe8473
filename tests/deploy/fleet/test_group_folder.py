"""Groups as their folders and processes show them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from memory_hosts import record

from deploy.fleet import group_folder
from deploy.fleet.group_folder import GroupFolder


@pytest.fixture
def launchers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Launchers that only sleep."""
    started: list[subprocess.Popen[bytes]] = []
    begin = subprocess.Popen

    def sleep(argv: list[str], **settings: Any) -> subprocess.Popen[bytes]:
        started.append(begin(["sleep", "60"], **settings))
        return started[-1]

    monkeypatch.setattr(group_folder.subprocess, "Popen", sleep)
    yield started
    for launcher in started:
        launcher.kill()
        launcher.wait()


def test_a_launcher_whose_environment_does_not_show_yet_is_not_taken_for_gone(
    tmp_path: Path, launchers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    really, looks = psutil.Process.environ, [{}] * 3

    def environ(process: psutil.Process) -> dict[str, str]:
        own = bool(launchers) and process.pid == launchers[0].pid
        return looks.pop() if own and looks else really(process)

    monkeypatch.setattr(psutil.Process, "environ", environ)
    group = record().groups[0]
    folder = GroupFolder(tmp_path)
    folder.start(group, tmp_path, {})
    state = folder.look(group.name)
    assert state is not None
    assert state.phase == "starting"
    launchers[0].kill()
    launchers[0].wait()
    ended = folder.look(group.name)
    assert ended is not None
    assert (ended.phase, ended.reason) == ("ended", "its launcher is gone")

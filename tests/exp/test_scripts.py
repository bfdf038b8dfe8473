"""The shell entry points: thin, runnable, and about files that are there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "exp").glob("*.sh"))


def test_there_are_scripts() -> None:
    assert "main_experiments" in {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_thin_and_names_files_that_are_there(path: Path) -> None:
    bash = shutil.which("bash")
    assert bash
    assert os.access(path, os.X_OK)
    assert subprocess.run([bash, "-n", str(path)], check=False).returncode == 0
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 20
    for name in re.findall(r"config/exp/[a-z_]+\.yaml", text):
        assert (ROOT / name).is_file()
    for names in re.findall(r"for name in ([a-z_0-9 ]+);|names=\(([a-z_0-9 ]+)\)", text):
        assert all((ROOT / f"config/exp/{each}.yaml").is_file() for each in "".join(names).split())

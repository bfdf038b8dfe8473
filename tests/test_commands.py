"""The commands that README and Makefile give can be run as they are written."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exp.cli import EXPERIMENTS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
COMMANDS = [
    shlex.split(line, comments=True) for line in README if re.match(r"(make|[\w./]*block-\w+) ", line)
]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("make")
    assert program
    # Not the settings of a make that may be running these tests.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment.pop("MFLAGS", None)
    return subprocess.run(
        [program, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_readme_has_the_commands_that_are_checked_here() -> None:
    assert {Path(command[0]).name for command in COMMANDS} == {
        "make",
        "block-deploy",
        "block-exp",
        "block-length",
    }


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme_is_known_and_found_without_a_changed_path(command: list[str]) -> None:
    program, *arguments = command
    if program == "make":
        assert make("-n", *arguments).returncode == 0
        return
    folder, _, name = program.rpartition("/")
    assert folder == ".venv/bin"
    module = SCRIPTS[name].partition(":")[0]
    if name == "block-exp":  # a table of commands that are loaded when they are asked for
        module = EXPERIMENTS[arguments.pop(0)].module
    app = import_module(module).app
    assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0


def test_a_setting_that_the_makefile_does_not_have_is_refused() -> None:
    done = make("-n", "demo", "MODEL=tiny-llama")
    assert done.returncode == 2
    assert "MODEL is not a setting" in done.stderr


def test_make_test_slow_has_tests_to_run() -> None:
    argv = [sys.executable, "-m", "pytest", "-m", "slow", "--collect-only", "-q"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout

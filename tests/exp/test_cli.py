from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import typer
from typer.testing import CliRunner

from exp.cli import EXPERIMENTS, main


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_help_with_an_example(name: str) -> None:
    app = import_module(EXPERIMENTS[name].module).app
    assert isinstance(app, typer.Typer)
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "Example: block-exp" in result.output


def test_help_lists_the_experiments_and_loads_none_of_them() -> None:
    code = "import sys; from exp.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'openai', 'numpy', 'exp.demo'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "demo" in done.stdout


def test_an_unknown_experiment_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["nothing"])
    assert caught.value.code == 2
    assert "known here: demo" in capsys.readouterr().err


def test_a_wrong_setting_is_one_line_and_exit_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--cluster", "nowhere.yaml"])
    assert caught.value.code == 1
    error = capsys.readouterr().err.strip()
    assert error == "block-exp: nowhere.yaml: cannot be read (No such file or directory); check the path"

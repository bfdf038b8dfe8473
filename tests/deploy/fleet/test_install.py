"""Installing on this machine, with a real shell; what pip would fetch is left out."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from block.fleet_config import SetupSettings
from deploy.fleet.bundle import Bundle
from deploy.fleet.install import install, layout_of, shell_path
from deploy.fleet.shell import HostError, LocalShell, run_script

SHELL = LocalShell("here")


def bundle(folder: Path, **files: str) -> Bundle:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return Bundle({f"sub/{name}": folder / name for name in files})


async def put(folder: Path, setup: SetupSettings, content: Bundle) -> list[str]:
    steps: list[str] = []
    await install(SHELL, layout_of(folder, setup, content), content, steps.append)
    return steps


async def test_what_is_there_is_left_alone_and_what_changes_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    setup = SetupSettings(environment=Path(sys.prefix))
    home = tmp_path / "home with a blank"
    first = bundle(tmp_path / "a", one="1")
    assert await put(home, setup, first) == ["looking", "copying sources"]
    assert await put(home, setup, first) == ["looking"]
    assert await put(home, setup, bundle(tmp_path / "b", one="2")) == ["looking", "copying sources"]
    assert sorted(path.read_text() for path in home.glob("sources-*/sub/one")) == ["1", "2"]


async def test_two_at_once_on_one_file_system_do_no_harm(tmp_path: Path) -> None:
    setup, content = SetupSettings(environment=Path(sys.prefix)), bundle(tmp_path / "a", one="1")
    await asyncio.gather(*(put(tmp_path / "home", setup, content) for _ in range(4)))
    [folder] = (tmp_path / "home").iterdir()
    assert (folder / "sub/one").read_text() == "1"


async def test_an_environment_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    setup = SetupSettings(environment=tmp_path / "none")
    with pytest.raises(HostError, match=r"here: there is no .*none/bin/python \(setup\.environment\)"):
        await put(tmp_path / "home", setup, bundle(tmp_path / "a", one="1"))


async def test_a_missing_python_is_named_with_the_remedy(tmp_path: Path) -> None:
    setup = SetupSettings(python="python9", requirements=Path("/dev/null"))
    with pytest.raises(HostError, match="there is no python9; install it, or name another"):
        await put(tmp_path / "home", setup, bundle(tmp_path / "a", one="1"))


async def test_paths_and_homes_survive_the_shell(tmp_path: Path) -> None:
    assert (await run_script(SHELL, f"echo {shell_path(Path('a b$c'))}")) == "a b$c\n"
    assert (await run_script(SHELL, f"echo {shell_path(Path('~/a b'))}")) == f"{Path.home()}/a b\n"


async def test_a_script_that_takes_too_long_or_fails_is_an_error_of_its_host() -> None:
    with pytest.raises(HostError, match=r"here: no answer within 0\.2 s"):
        await run_script(SHELL, "sleep 30", timeout_s=0.2)
    with pytest.raises(HostError, match="here: no such luck"):
        await run_script(SHELL, "echo no such luck >&2; exit 3")

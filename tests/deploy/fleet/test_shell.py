from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from block.fleet_config import HostConfig, SshBackend
from deploy.fleet.shell import SshShell


def shell(host: dict[str, Any], **backend: Any) -> SshShell:
    one = HostConfig(name="a", **host)
    return SshShell(SshBackend(kind="ssh", hosts=(one,), **backend), one)


async def test_ssh_is_told_never_to_ask_and_whom_to_trust() -> None:
    made = shell(
        {"ssh": "me@gpu1", "port": 2222}, identity=Path("~/key"), known_hosts=Path("/k"), connect_timeout_s=7
    )
    command = made.command("true")
    joined = " ".join(command)
    assert command[0] == "ssh"
    assert "BatchMode=yes" in joined
    assert "ConnectTimeout=7" in joined
    assert f"-i {Path.home()}/key" in joined
    assert "UserKnownHostsFile=/k" in joined
    assert "StrictHostKeyChecking" not in joined
    assert command[-3:-1] == ["--", "me@gpu1"]
    await made.close()


def test_a_script_reaches_the_far_shell_as_it_is() -> None:
    made = shell({})
    script = "printf '%s|' \"it's\" '$HOME' '\\' \"a\nb\""
    far = made.command(script)[-1]
    done = subprocess.run(["/bin/sh", "-c", far], capture_output=True, text=True, check=True)
    assert done.stdout == "it's|$HOME|\\|a\nb|"
    asyncio.run(made.close())


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Host key verification failed.", "log in once by hand"),
        ("me@gpu1: Permission denied (publickey).", "ssh-copy-id"),
        (
            "ssh: Could not resolve hostname gpu9: Name or service not known",
            "check the host's ssh and address",
        ),
        ("ssh: connect to host gpu1 port 22: Connection timed out", "is it up"),
    ],
)
async def test_what_ssh_says_comes_with_a_remedy(said: str, remedy: str) -> None:
    made = shell({"ssh": "me@gpu1"})
    explained = made.explain(255, f"debug\n{said}\n")
    assert explained.startswith("ssh me@gpu1: ")
    assert remedy in explained
    assert made.explain(1, "no module") == "no module"
    await made.close()

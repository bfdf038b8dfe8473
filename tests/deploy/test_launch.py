"""Starting a launcher in the background while another one brings the same cluster up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from rich.console import Console

from block.errors import DeployError
from deploy.launch import start_in_background
from deploy.plan import ClusterPlan
from deploy.run_folder import RunFolder
from deploy.state import ClusterState

OVERTAKEN = """
import shutil, sys, time
shutil.copy(sys.argv[1], sys.argv[2])
time.sleep(0.5)
print("block-deploy: somebody else's")
sys.exit(1)
"""


def test_anothers_readiness_is_not_taken_for_ones_own(
    tmp_path: Path, cluster_of: Callable[..., ClusterPlan]
) -> None:
    plan = cluster_of()
    folder = RunFolder(plan.folder)
    folder.create()
    (folder.path / "launcher.log").write_text("the other's words")
    me = psutil.Process()
    other = ClusterState("cluster", me.pid, me.create_time(), True, plan.openai_base_url, "m", ())
    (tmp_path / "other.json").write_bytes(msgspec.json.encode(other))
    argv = [sys.executable, "-c", OVERTAKEN, str(tmp_path / "other.json"), str(folder.path / "state.json")]

    with pytest.raises(DeployError, match=r"^somebody else's$"):
        start_in_background(plan, argv, Console())

    assert [path.name for path in folder.path.glob("launcher*")] == ["launcher.log"]
    assert (folder.path / "launcher.log").read_text() == "the other's words"


def test_the_words_of_a_launcher_that_fails_are_kept(cluster_of: Callable[..., ClusterPlan]) -> None:
    plan = cluster_of()
    with pytest.raises(DeployError, match=r"^no luck$"):
        start_in_background(
            plan, [sys.executable, "-c", "print('trying'); raise SystemExit('no luck')"], Console()
        )
    assert sorted((plan.folder / "launcher.log").read_text().split("\n")) == ["", "no luck", "trying"]

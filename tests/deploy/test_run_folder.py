from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from block.config import PredictorConfig, load_config
from block.errors import DeployError
from deploy.run_folder import RunFolder, find_run_folders
from deploy.state import ClusterState


def state(start_offset_s: float = 0.0) -> ClusterState:
    me = psutil.Process()
    return ClusterState(
        name="fleet",
        launcher_pid=me.pid,
        launcher_start_s=me.create_time() + start_offset_s,
        ready=True,
        openai_base_url="http://127.0.0.1:1/v1",
        model="m",
        processes=(),
    )


def test_resolved_configs_can_be_read_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "fleet" / "predictor-0.yaml"
    config = PredictorConfig(
        instance="instance-0", feed="ipc:///tmp/feed", latency=Path("/srv/table.yaml"), port=8200
    )
    folder = RunFolder(tmp_path / "fleet")
    folder.open({path: config})
    assert load_config(path, PredictorConfig) == config
    folder.close()


def test_state_is_there_while_the_launcher_runs_and_gone_after_close(tmp_path: Path) -> None:
    (tmp_path / "stray-file").touch()
    folder = RunFolder(tmp_path / "fleet")
    folder.open({})
    folder.write_state(state())
    assert RunFolder(tmp_path / "fleet").read_state() == state()
    assert [found.path.name for found in find_run_folders(tmp_path)] == ["fleet"]
    folder.close()
    assert folder.read_state() is None


def test_another_process_with_the_launchers_id_is_not_taken_for_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "fleet")
    folder.open({})
    folder.write_state(state(start_offset_s=-100.0))
    assert folder.read_state() is None
    folder.close()


def test_reading_changes_nothing_since_another_launcher_may_be_writing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "fleet")
    folder.open({})
    folder.write_state(state(start_offset_s=-100.0))
    assert RunFolder(folder.path).read_state() is None
    assert (folder.path / "state.json").exists()
    folder.close()


def test_what_a_launcher_left_is_swept_but_not_from_under_the_next_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "fleet")
    folder.open({})
    folder.write_state(state())
    RunFolder(folder.path).sweep()
    RunFolder(folder.path).close()
    assert folder.read_state() == state()

    folder.close()
    (folder.path / "state.json").write_text("left")
    (folder.path / "feed-0.sock").touch()
    RunFolder(folder.path).sweep()
    assert {path.name for path in folder.path.iterdir()} == {"lock", "logs"}
    folder.open({})
    folder.close()


def test_a_folder_can_be_opened_again_after_close_and_loses_its_old_logs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "fleet")
    folder.open({})
    (folder.logs / "old.log").write_text("old")
    folder.close()
    folder.open({})
    assert list(folder.logs.iterdir()) == []
    folder.close()


def test_a_damaged_state_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "fleet")
    folder.open({})
    (folder.path / "state.json").write_text('{"name": 3')
    with pytest.raises(DeployError, match=r"state\.json: damaged"):
        folder.read_state()
    folder.close()


def test_a_socket_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    sockets = tmp_path / "sockets"
    sockets.mkdir(mode=0o777)
    sockets.chmod(0o777)
    folder = RunFolder(tmp_path / "fleet", sockets)
    with pytest.raises(DeployError, match="not private to this user"):
        folder.open({})


def test_sockets_and_their_own_folder_are_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "fleet", tmp_path / "sockets")
    folder.open({})
    assert (tmp_path / "sockets").stat().st_mode & 0o777 == 0o700
    (tmp_path / "sockets" / "feed-0.sock").touch()
    folder.close()
    assert not (tmp_path / "sockets").exists()

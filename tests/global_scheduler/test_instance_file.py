"""The file of instances: read when it changes, the last good list kept, changed by many at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

from block.config import InstanceConfig
from block.errors import ConfigError, RequestError
from global_scheduler.instance_file import InstanceFile
from global_scheduler.instance_list import with_draining, with_new, without

A, B = (InstanceConfig(name=name, url=f"http://127.0.0.1:{port}") for name, port in (("a", 1), ("b", 2)))


@pytest.mark.parametrize("shape", ["list", "mapping", "json"])
def test_it_is_read_once_per_change(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "instances.yaml"
    entries = [{"name": "a", "url": "http://127.0.0.1:1"}]
    text = json.dumps(entries) if shape == "json" else yaml.safe_dump(entries)
    path.write_text(yaml.safe_dump({"instances": entries}) if shape == "mapping" else text)
    file = InstanceFile(path)
    assert file.read_if_changed() == (A,)
    assert file.read_if_changed() is None
    path.write_text(yaml.safe_dump([*entries, {"name": "b", "url": "http://127.0.0.1:2"}]))
    assert file.read_if_changed() == (A, B)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- {name: a, url: nowhere}", "instances.0.url"),
        ("- {name: a, url: 'http://h:1'}\n- {name: a, url: 'http://h:2'}", "several are named 'a'"),
        ("[{", "not valid YAML"),
        ("", "must be a list of instances, found NoneType"),
        ("- {name: a, url: 'http://h:1', wait: 3}", "instances.0.wait: unknown setting"),
        (None, "cannot be read"),
    ],
)
def test_a_broken_one_is_complained_of_and_forgiven_when_it_is_mended(
    tmp_path: Path, text: str | None, complaint: str
) -> None:
    path = tmp_path / "instances.yaml"
    file = InstanceFile(path)
    file.change(partial(with_new, A), ())
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    assert file.read_if_changed() is None
    assert complaint in (file.problem or "")
    assert str(path) in (file.problem or "")
    path.write_text("[]")
    assert file.read_if_changed() == ()
    assert file.problem is None


def test_changes_are_written_whole_in_the_files_own_format_and_through_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("[]")
    real.chmod(0o640)
    link.symlink_to(real)
    file = InstanceFile(link)
    file.change(partial(with_new, A), ())
    file.change(partial(with_draining, "a", True, 3.0), ())
    (entry,) = json.loads(real.read_text())
    assert entry == {"name": "a", "url": A.url, "draining": True, "drain_timeout_s": 3.0}
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert file.change(partial(without, "a"), ()) == ()


def test_a_file_that_is_not_there_begins_with_what_is_followed_now(tmp_path: Path) -> None:
    file = InstanceFile(tmp_path / "instances.yaml")
    assert file.change(partial(with_new, B), (A,)) == (A, B)
    assert file.read_if_changed() is None
    with pytest.raises(ConfigError, match="cannot be changed"):
        InstanceFile(tmp_path / "no" / "such" / "folder").change(partial(with_new, B), ())


def test_a_refused_edit_changes_nothing(tmp_path: Path) -> None:
    file = InstanceFile(tmp_path / "instances.yaml")
    file.change(partial(with_new, A), ())
    before = file.path.read_bytes()
    with pytest.raises(RequestError, match="no instance 'c'; known: a"):
        file.change(partial(without, "c"), ())
    elsewhere = A.model_copy(update={"url": "http://127.0.0.1:9"})
    with pytest.raises(RequestError, match="'a' is taken"):
        file.change(partial(with_new, elsewhere), ())
    assert file.path.read_bytes() == before


_ADD = """
import sys
from functools import partial
from pathlib import Path
from block.config import InstanceConfig
from global_scheduler.instance_file import InstanceFile
from global_scheduler.instance_list import with_new
file = InstanceFile(Path(sys.argv[1]))
for n in range(20):
    new = InstanceConfig(name=f"{sys.argv[2]}{n}", url="http://127.0.0.1:1")
    file.change(partial(with_new, new), ())
"""


def test_processes_that_change_it_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "instances.yaml"
    argv = [sys.executable, "-c", _ADD, str(path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    adders = [subprocess.Popen([*argv, name], env=environment) for name in "xy"]
    assert [adder.wait(30) for adder in adders] == [0, 0]
    assert len(InstanceFile(path).read_if_changed() or ()) == 40

"""Keys by reference: where they come from, what is a mistake, and that no value is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from block.access import Keyring, bearer, brought_key, check_exposure, is_loopback
from block.config import PredictorConfig, SchedulerConfig, parse_config
from block.errors import ConfigError
from block.operation import AccessSettings, SecretSource

SECRET = "sk-a-secret-that-nobody-may-see"


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEYS", f" {SECRET}  another-key\n")
    ring = Keyring(SecretSource(env="KEYS"), "access.keys")
    assert ring.admits(SECRET.encode())
    assert ring.admits(b"another-key")
    assert not ring.admits(SECRET.encode()[:-1])
    assert not ring.admits(b"")


def test_keys_of_a_file_are_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = tmp_path / "keys"
    file.write_text(f"# team a\n{SECRET}\n\n")
    ring = Keyring(SecretSource(file=file), "access.keys")
    assert ring.files == (file,)
    file.write_text("a-newer-key\n")
    ring.renew()
    assert ring.admits(b"a-newer-key")
    assert not ring.admits(SECRET.encode())
    file.write_text("short")
    ring.renew()
    assert ring.admits(b"a-newer-key")
    assert "stay as they were" in caplog.text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("# nothing\n", "holds no key"), (f"{SECRET}\nshort", "key 2 must be"), ("clé-très-secrète", "key 1")],
)
def test_what_is_no_key_is_refused_without_being_shown(tmp_path: Path, text: str, complaint: str):
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        Keyring(SecretSource(file=file), "settings.access.keys")
    assert str(caught.value).startswith(f"settings.access.keys.file = {file}: ")
    assert SECRET not in str(caught.value)


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_SUCH_KEYS", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEYS: there is no such environment variable"):
        Keyring(SecretSource(env="NO_SUCH_KEYS"), "access.keys")
    with pytest.raises(ConfigError, match="No such file"):
        Keyring(SecretSource(file=tmp_path / "none"), "access.keys")


@pytest.mark.parametrize("given", [SECRET, {"value": SECRET}, [SECRET], {"env": "A", "file": "b"}, {}])
def test_a_key_written_into_a_configuration_is_refused_and_not_repeated(given: object):
    raw = {"instances": [{"name": "a", "url": "http://h"}], "settings": {"access": {"keys": given}}}
    with pytest.raises(ConfigError, match=r"scheduler.yaml: settings.access.keys") as caught:
        parse_config(raw, SchedulerConfig, "scheduler.yaml")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([(b"authorization", b"Bearer abc")], b"abc"),
        ([(b"authorization", b"bearer  abc")], b"abc"),
        ([(b"x-api-key", b"abc")], b"abc"),
        ([(b"authorization", b"Basic abc"), (b"x-api-key", b"abc")], b"abc"),
        ([(b"authorization", b"abc")], None),
        ([], None),
    ],
)
def test_where_a_client_may_bring_its_key(headers, key):
    assert brought_key(headers) == key


def test_our_own_key_is_brought_as_a_bearer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ENGINE_KEY", SECRET)
    assert bearer(SecretSource(env="ENGINE_KEY"), "k") == [(b"authorization", f"Bearer {SECRET}".encode())]
    assert bearer(None, "k") == []


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("no-such-host.invalid", False),
    ],
)
def test_which_addresses_only_this_machine_reaches(host: str, expected: bool):
    assert is_loopback(host) is expected


def test_nothing_listens_to_others_without_keys_unless_that_is_wanted():
    with pytest.raises(ConfigError, match=r"s.yaml: host = '0.0.0.0'.*--allow-anyone"):
        check_exposure("0.0.0.0", AccessSettings(), "s.yaml")
    check_exposure("0.0.0.0", AccessSettings(allow_anyone=True), "s.yaml")
    check_exposure("0.0.0.0", AccessSettings(keys=SecretSource(env="KEYS")), "s.yaml")
    check_exposure("127.0.0.1", AccessSettings(), "s.yaml")


def test_relative_files_are_anchored_however_deep_they_stand():
    raw = {
        "instance": "a",
        "feed": "ipc://x",
        "latency": "l.yaml",
        "port": 1,
        "settings": {"access": {"keys": {"file": "keys"}}, "tls": {"certificate": "/abs/c.pem"}},
    }
    config = PredictorConfig.model_validate(raw).anchored(Path("/root"))
    assert config.latency == Path("/root/l.yaml")
    assert config.settings.access.keys == SecretSource(file=Path("/root/keys"))
    assert config.settings.tls is not None
    assert config.settings.tls.certificate == Path("/abs/c.pem")

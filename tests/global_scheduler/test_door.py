"""Keys at the door: who gets in where, what others are told, and which keys travel on."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import openai
import pytest
from raw_http import Echo
from scheduler_world import Scheduler

from block.config import SchedulerConfig
from block.errors import ConfigError
from block.http.origin import trusting
from block.http.server import Server
from block.http.tls import Certificate
from block.operation import SchedulerAccess, SecretSource, TlsSettings
from global_scheduler.door import Door

CLIENT, ADMIN, ENGINE = "client-key-1", "admin-key-1", "engine-key-1"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_KEYS", f"{CLIENT} client-key-2")
    monkeypatch.setenv("ADMIN_KEYS", ADMIN)
    monkeypatch.setenv("ENGINE_KEY", ENGINE)


BOTH = {"keys": {"env": "CLIENT_KEYS"}, "admin_keys": {"env": "ADMIN_KEYS"}}


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_wrong_key_gets_openais_error_and_no_instance_hears_of_it(world):
    fleet = await world(instances=1, access=BOTH)
    async with openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key="wrong-key", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model="llama", messages=[])
    assert caught.value.code == "invalid_api_key"
    assert "wrong-key" not in str(caught.value.body)
    bare = await fleet.chat()
    assert (bare.status_code, bare.json()["error"]["type"]) == (401, "invalid_request_error")
    assert bare.headers["www-authenticate"] == "Bearer"
    assert fleet.instances["a"].received == []
    metrics = await fleet.http.get(f"{fleet.url}/metrics", headers=bearing(ADMIN))
    assert "block_unauthorized_total 2.0" in metrics.text


@pytest.mark.parametrize(
    "headers", [bearing(CLIENT), bearing("client-key-2"), {"x-api-key": CLIENT}], ids=str
)
async def test_each_valid_key_gets_in(world, headers):
    fleet = await world(instances=1, access=BOTH)
    assert (await fleet.chat(headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/health", None, 200),
        ("/metrics", None, 401),
        ("/metrics", CLIENT, 200),
        ("/metrics", ADMIN, 200),
        ("/v1/models", None, 401),
        ("/v1/models", CLIENT, 200),
        ("/v1/models", ADMIN, 401),
        ("/admin/instances", None, 401),
        ("/admin/instances", CLIENT, 401),
        ("/nowhere", None, 401),
        ("/nowhere", CLIENT, 404),
    ],
)
async def test_which_path_takes_which_key(world, path, key, status):
    fleet = await world(instances=1, access=BOTH)
    answer = await fleet.http.get(f"{fleet.url}{path}", headers=bearing(key) if key else {})
    assert answer.status_code == status


async def test_metrics_can_be_left_open(world):
    fleet = await world(instances=1, access={**BOTH, "open_metrics": True})
    assert (await fleet.http.get(f"{fleet.url}/metrics")).status_code == 200


async def test_without_admin_keys_administration_is_closed_to_those_who_need_keys(world):
    fleet = await world(instances=1, access={"keys": {"env": "CLIENT_KEYS"}})
    answer = await fleet.http.get(f"{fleet.url}/admin/instances", headers=bearing(CLIENT))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "admin_closed")


@pytest.mark.parametrize(
    ("access", "exposed", "guarded"),
    [
        ({}, False, False),
        ({}, True, True),
        (BOTH, False, True),
        ({"admin_keys": BOTH["admin_keys"]}, False, True),
    ],
)
def test_the_door_costs_nothing_where_everybody_may_do_everything(access, exposed, guarded):
    assert Door(SchedulerAccess.model_validate(access), exposed=exposed).guarded is guarded


def test_a_key_file_is_read_again_on_renewal(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("the-first-key")
    door = Door(SchedulerAccess(keys=SecretSource(file=file)), exposed=False)
    file.write_text("the-second-key")
    door.renew()
    assert door._keys is not None
    assert (door._keys.admits(b"the-first-key"), door._keys.admits(b"the-second-key")) == (False, True)


async def test_the_clients_key_stays_here(world):
    fleet = await world(instances=1, access=BOTH)
    await fleet.chat(headers={**bearing(CLIENT), "x-api-key": "another-secret"})
    received = fleet.instances["a"].received[0][0]
    assert "Authorization" not in received
    assert "X-Api-Key" not in received


async def test_the_clients_key_goes_on_if_that_is_wanted(world):
    fleet = await world(instances=1, access=BOTH, upstream={"forward_client_key": True})
    await fleet.chat(headers=bearing(CLIENT))
    assert fleet.instances["a"].received[0][0]["Authorization"] == f"Bearer {CLIENT}"


async def test_engines_and_predictors_get_keys_of_their_own(world):
    upstream = {"engine_key": {"env": "ENGINE_KEY"}, "predictor_key": {"env": "ADMIN_KEYS"}}
    fleet = await world(instances=1, predictors=True, policy="block", access=BOTH, upstream=upstream)
    await fleet.chat(headers=bearing(CLIENT))
    assert fleet.instances["a"].received[0][0].getall("Authorization") == [f"Bearer {ENGINE}"]
    assert fleet.instances["a"].keys == {f"Bearer {ENGINE}"}
    assert fleet.predictors["a"].keys == {f"Bearer {ADMIN}"}


@pytest.mark.parametrize("trusts", [True, False])
async def test_instances_are_reached_over_https_if_their_authority_is_trusted(certificate, trusts):
    server = Server(Echo(), Certificate(TlsSettings(certificate=certificate)).context())
    listener = socket.create_server(("127.0.0.1", 0))
    await server.start(listener)
    instance = {"name": "a", "url": f"https://localhost:{listener.getsockname()[1]}"}
    upstream = {"authorities": str(certificate)} if trusts else {}
    config = {"instances": [instance], "settings": {"upstream": upstream}}
    scheduler = Scheduler(SchedulerConfig.model_validate(config))
    await scheduler.start()
    async with httpx.AsyncClient() as http:
        health = (await http.get(f"{scheduler.url}/health")).json()
    assert [one["healthy"] for one in health["instances"]] == [trusts]
    await scheduler.stop()
    await server.stop(1)


def test_authorities_that_are_none_are_named(tmp_path: Path):
    (tmp_path / "ca.pem").write_text("junk")
    for name in ("ca.pem", "none.pem"):
        with pytest.raises(ConfigError, match=rf"authorities = .*{name}: cannot be used"):
            trusting(tmp_path / name)

"""Instances that come, drain and go while requests run: by the admin API and by the file that is followed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fake_instance import FakeInstance
from scheduler_world import Scheduler, World

from block.config import SchedulerConfig
from global_scheduler.roster import Roster


async def conditions(fleet: World) -> dict[str, str]:
    answer = await fleet.http.get(f"{fleet.url}/admin/instances")
    return {one["name"]: one["condition"] for one in answer.json()["instances"]}


async def until_conditions(fleet: World, **wanted: str) -> None:
    async with asyncio.timeout(5):
        while await conditions(fleet) != wanted:  # noqa: ASYNC110  (of another thread)
            await asyncio.sleep(0.02)


async def served_by(fleet: World, requests: int = 6) -> set[str]:
    answers = [await fleet.chat() for _ in range(requests)]
    assert {answer.status_code for answer in answers} == {200}
    return {answer.headers["x-block-instance"] for answer in answers}


async def post(fleet: World, path: str, body: Any = None) -> httpx.Response:
    return await fleet.http.post(f"{fleet.url}/admin/instances{path}", json=body)


async def test_an_instance_is_added_serves_and_is_taken_away(world):
    fleet = await world(instances=1)
    new = fleet.instances["new"] = FakeInstance("new")
    await new.start()
    answer = await post(fleet, "", {"name": "new", "url": new.url})
    assert answer.status_code == 201
    await until_conditions(fleet, a="ready", new="ready")
    assert await served_by(fleet) == {"a", "new"}
    again = await post(fleet, "", {"name": "new", "url": new.url})
    assert again.status_code == 201
    gone = await fleet.http.delete(f"{fleet.url}/admin/instances/a")
    assert gone.status_code == 202
    await until_conditions(fleet, new="ready")
    assert await served_by(fleet) == {"new"}


async def test_a_new_instance_gets_nothing_before_it_answers_a_poll(world):
    fleet = await world(instances=1)
    await post(fleet, "", {"name": "dead", "url": "http://127.0.0.1:9"})
    await until_conditions(fleet, a="ready", dead="down")
    assert await served_by(fleet) == {"a"}
    assert await fleet.metric('block_instance_up{instance="dead"}') == 0


async def test_a_drained_instance_finishes_its_stream_and_comes_back(world, wait_until, expected_stream):
    fleet = await world()
    fleet.instances["a"].behaviour = "slow_stream"
    async with fleet.http.stream("POST", f"{fleet.url}/v1/completions", json={"stream": True}) as answer:
        chunks = answer.aiter_raw()
        await anext(chunks)
        assert (await post(fleet, "/a/drain")).status_code == 202
        assert await conditions(fleet) == {"a": "draining", "b": "ready"}
        assert await served_by(fleet) == {"b"}
        for _ in range(5):
            assert await anext(chunks)
    await wait_until(lambda: fleet.instances["a"].active == 0)
    fleet.instances["a"].behaviour = "serve"
    assert (await post(fleet, "/a/resume")).status_code == 202
    assert await served_by(fleet) == {"a", "b"}


async def test_at_its_deadline_streams_end_with_an_error_and_what_waits_goes_elsewhere(
    world, wait_until, expected_stream
):
    fleet = await world()
    engine = fleet.instances["a"]
    engine.behaviour = "slow_stream"
    streaming = asyncio.create_task(fleet.chat(stream=True))
    await wait_until(lambda: engine.written > 2)
    await fleet.chat()
    engine.behaviour = "hang"
    waiting = asyncio.create_task(fleet.chat(stream=True))
    await wait_until(lambda: engine.active == 2)
    await post(fleet, "/a/drain", {"timeout_s": 0.2})
    broken, moved = await streaming, await waiting
    event = json.loads(broken.content.split(b"\n\n")[-2].removeprefix(b"data: "))
    assert event["error"]["code"] == "instance_drained"
    assert (moved.content, moved.headers["x-block-instance"]) == (expected_stream, "b")
    await wait_until(lambda: engine.active == 0)


async def test_a_removed_instance_is_shown_as_leaving_until_its_requests_are_over(world, wait_until):
    fleet = await world()
    fleet.instances["a"].behaviour = "slow_stream"
    async with fleet.http.stream("POST", f"{fleet.url}/v1/completions", json={"stream": True}) as answer:
        chunks = answer.aiter_raw()
        await anext(chunks)
        await fleet.http.delete(f"{fleet.url}/admin/instances/a")
        assert await conditions(fleet) == {"b": "ready", "a": "leaving"}
        assert await anext(chunks)
    await until_conditions(fleet, b="ready")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "", {"name": "a", "url": "http://127.0.0.1:9"}, 409),
        ("POST", "", {"name": "no blanks", "url": "http://127.0.0.1:9"}, 400),
        ("POST", "", {"name": "c"}, 400),
        ("POST", "", {"name": "c", "url": "http://a..b:80"}, 400),
        ("POST", "", [], 400),
        ("DELETE", "/nobody", None, 404),
        ("POST", "/nobody/drain", None, 404),
        ("POST", "/a/drain", {"timeout_s": -1}, 400),
        ("POST", "/a/drain", {"timeout": 1}, 400),
        ("GET", "/a/drain", None, 405),
        ("PUT", "", None, 405),
        ("GET", "/a/b/c", None, 404),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(world, method, path, body, status):
    fleet = await world()
    answer = await fleet.http.request(method, f"{fleet.url}/admin/instances{path}", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert await conditions(fleet) == {"a": "ready", "b": "ready"}


async def test_a_defect_is_an_answer_and_a_traceback(world, monkeypatch, caplog):
    fleet = await world(instances=1)

    def follow(self: Roster, configs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Roster, "follow", follow)
    answer = await post(fleet, "/a/drain")
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "internal error")
    assert "ZeroDivisionError" in caplog.text


async def start_with_file(fleet: World, path: Path, worker: int | None = None, **fields: Any) -> None:
    """The world's scheduler again, with a file of instances."""
    assert fleet.scheduler is not None
    await fleet.scheduler.stop()
    config = fleet.configure({}).model_dump() | {"instances_file": path} | fields
    fleet.scheduler = Scheduler(SchedulerConfig.model_validate(config), worker)
    await fleet.scheduler.start()


async def test_the_file_is_followed_and_a_broken_one_is_not(world, tmp_path):
    fleet = await world(instances=3)
    entries = {name: {"name": name, "url": one.url} for name, one in fleet.instances.items()}
    path = tmp_path / "instances.yaml"
    path.write_text(yaml.safe_dump([entries["a"]]))
    await start_with_file(fleet, path)
    assert await conditions(fleet) == {"a": "ready"}
    path.write_text(yaml.safe_dump([entries["c"], entries["b"] | {"draining": True}]))
    await until_conditions(fleet, c="ready", b="draining")
    assert await served_by(fleet) == {"c"}
    path.write_text("- name: [")
    async with asyncio.timeout(5):
        while await fleet.metric("block_instances_file_ok") != 0:  # noqa: ASYNC110  (likewise)
            await asyncio.sleep(0.05)
    health = (await fleet.http.get(f"{fleet.url}/health")).json()
    assert "not valid YAML" in health["instances_file_problem"]
    assert await served_by(fleet) == {"c"}
    refused = await post(fleet, "/c/drain")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "instances_file")
    path.write_text(yaml.safe_dump([entries["a"]]))
    await until_conditions(fleet, a="ready")
    assert await fleet.metric("block_instances_file_ok") == 1


async def test_workers_need_the_file_for_changes(world, tmp_path):
    """One that shares its port refuses to change itself alone; with a file, all follow."""
    fleet = await world(instances=2)
    entries = {name: {"name": name, "url": one.url} for name, one in fleet.instances.items()}
    path = tmp_path / "instances.yaml"
    path.write_text(yaml.safe_dump([entries["a"]]))
    await start_with_file(fleet, path, worker=1, instances_file=None)
    refused = await post(fleet, "/a/drain")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_instances_file")
    await start_with_file(fleet, path, worker=1)
    other = World()
    config = SchedulerConfig.model_validate(fleet.configure({}).model_dump() | {"instances_file": path})
    other.scheduler = Scheduler(config, worker=0)
    await other.scheduler.start()
    assert (await post(fleet, "", entries["b"])).status_code == 201
    await until_conditions(other, a="ready", b="ready")
    await post(other, "/a/drain")
    await until_conditions(fleet, a="draining", b="ready")
    await other.stop()

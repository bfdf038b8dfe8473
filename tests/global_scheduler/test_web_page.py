"""Requests as browsers send them for pages of other sites: they reach this machine, and change nothing."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import pytest
from scheduler_world import World

DRAIN = "/admin/instances/a/drain"
RESET = "/admin/lengths/reset"
JSON = {"content-type": "application/json"}


async def send(
    fleet: World, method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, str | None]:
    """By hand: no client's own idea of Host and Content-Type. Returns status and error code."""
    place = urlsplit(fleet.url)
    named = {"host": place.netloc} | headers
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    lines += [f"content-length: {len(body)}", "connection: close", "", ""]
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write("\r\n".join(lines).encode() + body)
    head, _, answer = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    writer.close()
    status = int(head.split(b" ")[1])
    return status, json.loads(answer)["error"]["code"] if status >= 400 else None


async def condition(fleet: World, name: str = "a") -> str:
    answer = await fleet.http.get(f"{fleet.url}/admin/instances")
    return str(next(one["condition"] for one in answer.json()["instances"] if one["name"] == name))


@pytest.mark.parametrize(
    ("headers", "body", "refused"),
    [
        ({"origin": "http://evil.example"}, b"", (403, "cross_origin")),
        ({"origin": "null"}, b"", (403, "cross_origin")),
        ({"origin": "http://localhost:3000"}, b"", (403, "cross_origin")),
        ({"sec-fetch-site": "cross-site"}, b"", (403, "cross_origin")),
        ({"sec-fetch-site": "same-site"}, b"", (403, "cross_origin")),
        (JSON | {"origin": "http://evil.example"}, b"{}", (403, "cross_origin")),
        ({"content-type": "text/plain"}, b"{}", (415, "not_json")),
        ({"content-type": "application/x-www-form-urlencoded"}, b"{}", (415, "not_json")),
        ({}, b"{}", (415, "not_json")),
        ({"host": "evil.example:8000", "origin": "http://evil.example:8000"}, b"", (403, "strange_host")),
        ({"host": "127.0.0.1.evil.example"}, b"", (403, "strange_host")),
        ({"host": "0.0.0.0:8000"}, b"", (403, "strange_host")),
    ],
)
async def test_what_a_page_of_another_site_sends_changes_nothing(world, headers, body, refused):
    fleet = await world()
    assert await send(fleet, "POST", DRAIN, headers, body) == refused
    assert await send(fleet, "POST", RESET, headers, body) == refused
    assert await condition(fleet) == "ready"


async def test_no_method_is_a_way_round(world):
    fleet = await world()
    for method in ("DELETE", "PUT", "PATCH", "OPTIONS"):
        answer = await send(fleet, method, "/admin/instances/a", {"origin": "http://evil.example"})
        assert answer == (403, "cross_origin")
    assert await condition(fleet) == "ready"


async def test_a_page_that_has_its_name_lead_here_reads_nothing(world):
    fleet = await world()
    answer = await send(fleet, "GET", "/admin/instances", {"host": "evil.example"})
    assert answer == (403, "strange_host")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b""),
        (JSON, b'{"timeout_s": 5}'),
        ({"content-type": "application/json; charset=utf-8"}, b"{}"),
        ({"host": "localhost:8000", "origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}, b""),
        ({"host": "[::1]:8000"}, b""),
        ({"host": "block.localhost"}, b""),
        ({"sec-fetch-site": "none"}, b""),
    ],
)
async def test_programs_of_this_machine_and_the_services_own_pages_administer(world, headers, body):
    fleet = await world()
    assert (await send(fleet, "POST", DRAIN, headers, body))[0] == 202
    assert await condition(fleet) == "draining"


async def test_whoever_brings_an_admins_key_may_come_from_anywhere(world, monkeypatch):
    monkeypatch.setenv("ADMIN_KEYS", "an-admins-key")
    fleet = await world(access={"admin_keys": {"env": "ADMIN_KEYS"}})
    headers = {"host": "block.example", "origin": "https://console.example"}
    key = {"authorization": "Bearer an-admins-key"}
    assert (await send(fleet, "POST", DRAIN, headers))[0] == 401
    assert (await send(fleet, "POST", DRAIN, headers | key))[0] == 202


async def test_generation_is_not_concerned(world):
    fleet = await world()
    answer = await fleet.http.post(
        f"{fleet.url}/v1/chat/completions",
        content=b'{"model": "llama", "messages": []}',
        headers={"host": "api.example", "origin": "https://app.example"},
    )
    assert answer.status_code == 200

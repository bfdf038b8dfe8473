"""The agent: runs on a host for as long as somebody talks to it over its standard input and output.

Holds nothing: groups outlive it, and the next agent finds them by their folders. Whatever the other end
was, a pipe or ssh, the agent ends with it.
"""

from __future__ import annotations

import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer

from block.config import parse_config
from block.errors import BlockError, DeployError
from deploy.fleet.agent_messages import (
    Answer,
    CleanUp,
    Done,
    Fetch,
    Fetched,
    Logs,
    Look,
    ReadLogs,
    Refused,
    Request,
    Seen,
    Start,
    Stop,
    Tell,
)
from deploy.fleet.group import Group
from deploy.fleet.group_folder import GroupFolder, write_whole
from deploy.fleet.group_plan import INSTANCES_FILE

_PAGE_TIMEOUT_S = 3.0
_LARGEST_PAGE = 4 * 2**20

app = typer.Typer(add_completion=False)


class Agent:
    """Answers requests about one fleet's folder on this host."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._root = root
        self._groups = GroupFolder(folder)
        self._answers: dict[type, Callable[[Any], Answer]] = {
            Start: self._start,
            Stop: self._stop,
            Look: lambda _: Seen(self._groups.look_at_all()),
            Tell: self._tell,
            ReadLogs: self._read_logs,
            Fetch: lambda request: Fetched(fetch_pages(request.pages, request.key)),
            CleanUp: self._clean_up,
        }

    def answer(self, request: Request) -> Answer:
        """Do what is asked; what goes wrong on purpose or in the file system is an answer too."""
        try:
            return self._answers[type(request)](request)
        except (BlockError, OSError) as error:
            return Refused(str(error))

    def _start(self, request: Start) -> Answer:
        group = parse_config(msgspec.json.decode(request.group), Group, "group")
        self._groups.start(group, self._root, request.secrets)
        return Done()

    def _stop(self, request: Stop) -> Answer:
        self._groups.stop(request.name)
        return Done()

    def _tell(self, request: Tell) -> Answer:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / INSTANCES_FILE, bytes(request.instances))
        return Done()

    def _read_logs(self, request: ReadLogs) -> Answer:
        text, offsets = {}, {}
        for group in self._groups.look_at_all():
            for process, path in self._groups.logs(group.name).items():
                start = request.offsets.get(process, max(0, path.stat().st_size - request.tail))
                text[process], offsets[process] = read_lines(path, start, request.tail)
        return Logs(text, offsets)

    def _clean_up(self, _: CleanUp) -> Answer:
        for home in self._folder.iterdir() if self._folder.is_dir() else ():
            if home.is_dir():
                self._groups.stop(home.name)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._folder.exists():
            raise DeployError(f"{self._folder}: could not be removed")
        return Done()


def read_lines(path: Path, start: int, limit: int) -> tuple[str, int]:
    """Whole lines of a log from ``start`` on, some ``limit`` bytes, and where they end."""
    with path.open("rb") as file:
        if file.seek(0, 2) < start:
            start = 0  # The log was begun anew.
        file.seek(start)
        fresh = file.read(limit)
    whole = fresh[: fresh.rfind(b"\n") + 1] or (fresh if len(fresh) == limit else b"")
    return whole.decode("utf-8", errors="replace"), start + len(whole)


def fetch_pages(pages: dict[str, str], key: str = "") -> dict[str, str]:
    """What each URL answers to whom brings this key; those that do not are left out."""
    if not pages:
        return {}
    with ThreadPoolExecutor(min(16, len(pages))) as pool:
        found = pool.map(partial(_fetch_page, key), pages, pages.values())
        return {url: body for url, body in zip(pages, found, strict=True) if body is not None}


def _fetch_page(key: str, url: str, body: str) -> str | None:
    headers = {"content-type": "application/json"} if body else {}
    if key:
        headers["authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, body.encode() or None, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_PAGE_TIMEOUT_S) as answer:
            return str(answer.read(_LARGEST_PAGE).decode("utf-8", errors="replace"))
    except (urllib.error.URLError, OSError, ValueError):
        return None


def serve(agent: Agent, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer line by line until there are no more."""
    decoder = msgspec.json.Decoder(Request)
    for line in requests:
        try:
            answer = agent.answer(decoder.decode(line))
        except msgspec.DecodeError as error:
            answer = Refused(f"not understood ({error}); install the fleet again: block-deploy install FILE")
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


@app.command()
def run(
    folder: Annotated[Path, typer.Option(help="Folder of this fleet's groups.")],
    root: Annotated[Path, typer.Option(help="Sources; where relative paths begin.")],
) -> None:
    """Answer requests about one fleet on this host, in JSON lines, until the input ends."""
    serve(Agent(folder, root), sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    app()

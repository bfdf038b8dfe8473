"""A router in a process of its own, ours or a peer's, and what its whole process tree has cost."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import yaml

from block.errors import ConfigError

READY_S = 60.0
_CONFIG = re.compile(r"\{config:([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class RouterCommand:
    """How to start a router."""

    name: str
    template: str
    """``{urls}`` (of the instances, parted by blanks) and ``{port}`` are filled in; in place of
    ``{config:FILE}`` comes the path of a copy of that file that is filled in, too."""
    policy: str | None = None
    """Of ours; None is a peer's."""
    predictors: tuple[str, ...] = ()
    """URLs in the order of the instances; without any, instances answer ``block``'s questions themselves."""
    quorum: int | None = None
    """Of ours: predictors whose answers are enough."""

    @classmethod
    def peer(cls, template: str) -> RouterCommand:
        """Raises ConfigError without ``{urls}`` and ``{port}``, or if there is no such program or file."""
        told = "".join([template, *map(_text, _CONFIG.findall(template))])
        if not ("{urls}" in told or "{url}" in told) or "{port}" not in told:
            raise ConfigError(f"--peer {template!r}: must say where {{urls}} and {{port}} go")
        program = shlex.split(template)[0]
        if shutil.which(program) is None:
            raise ConfigError(f"--peer {program}: not found; install it, or give its path")
        return cls(Path(program).name, template)

    @classmethod
    def ours(cls, policy: str, predictors: Sequence[str] = (), quorum: int | None = None) -> RouterCommand:
        """This project's scheduler under a policy."""
        template = f"{sys.executable} -m global_scheduler.cli"
        return cls(f"block-scheduler, {policy}", template, policy, tuple(predictors), quorum)

    def argv(self, urls: Sequence[str], port: int, folder: Path) -> list[str]:
        """The command line; a configuration, if one is needed, is written into ``folder``."""
        if self.policy is None:
            command = _CONFIG.sub(lambda found: _copied(found[1], urls, port, folder), self.template)
            return shlex.split(_filled_in(command, urls, port))
        predictors = self.predictors or (urls if self.policy == "block" else [None] * len(urls))
        instances = [
            {"name": f"mock-{index}", "url": url, "predictor_url": predictor}
            for index, (url, predictor) in enumerate(zip(urls, predictors, strict=True))
        ]
        settings = {"policy": self.policy, "probe_quorum": self.quorum}
        config = {"instances": instances, "port": port, "settings": settings}
        path = folder / f"scheduler-{port}.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return [*shlex.split(self.template), "--config", str(path)]


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--peer: {file}: cannot be read ({error}); check the path") from error


def _copied(file: str, urls: Sequence[str], port: int, folder: Path) -> str:
    """The path of a copy; a line with ``{url}`` is there once for each instance."""
    lines = []
    for line in _text(file).splitlines():
        each = urls if "{url}" in line else urls[:1]
        lines += [_filled_in(line.replace("{url}", url), urls, port) for url in each]
    path = folder / f"{port}-{Path(file).name}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return shlex.quote(str(path))


def _filled_in(text: str, urls: Sequence[str], port: int) -> str:
    return text.replace("{urls}", " ".join(urls)).replace("{port}", str(port))


@dataclass(frozen=True, slots=True)
class RunningRouter:
    """A router that answers."""

    url: str
    process: psutil.Process

    def cpu_s(self) -> float:
        """CPU time of the process tree so far."""
        tree = [self.process, *self.process.children(recursive=True)]
        return sum(times.user + times.system for times in (one.cpu_times() for one in tree))

    def rss_bytes(self) -> int:
        """Resident memory of the process tree."""
        return sum(one.memory_info().rss for one in (self.process, *self.process.children(recursive=True)))


@contextmanager
def running(command: RouterCommand, urls: Sequence[str], folder: Path) -> Iterator[RunningRouter]:
    """Start a router before the instances at ``urls``. Raises ConfigError if it does not come up."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / f"router-{port}.log"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(command.argv(urls, port, folder), stdout=output, stderr=output)
        except OSError as error:
            raise ConfigError(f"{command.name}: cannot be started ({error.strerror}); install it") from error
    try:
        url = f"http://127.0.0.1:{port}"
        _until_ready(command, url, process, log)
        yield RunningRouter(url, psutil.Process(process.pid))
    finally:
        _end(process)


def _until_ready(command: RouterCommand, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    body = {"model": "mock", "messages": [{"role": "user", "content": "x"}]}
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            if httpx.post(f"{url}/v1/chat/completions", json=body, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise ConfigError(f"{command.name}: does not answer; it said: {log.read_text(errors='replace')[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""A user of a fleet, for tests: the command line in a process of its own, and the openai client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import OpenAI, OpenAIError

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = "llama-2-7b"
CLIENT_KEY = "the-key-of-a-client"
"""What all requests bring; a fleet may ask for it."""


@dataclass
class FleetUser:
    """Runs ``block-deploy`` in one folder; notes how long each command took."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    times: list[tuple[str, float]] = field(default_factory=list)

    def deploy(self, *arguments: str, code: int | None = 0, timeout_s: float = 300) -> str:
        """What it printed; fails unless it exits with ``code``, if one is given."""
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.environment, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        took_s = time.monotonic() - began_s
        self.times.append((arguments[0], took_s))
        print(f"block-deploy {' '.join(arguments)}: {took_s:.1f} s, exit status {done.returncode}")
        print(done.stdout + done.stderr)
        assert code in {None, done.returncode}, done.stdout + done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command that runs inside, and is ended by Ctrl-C, unless it has ended."""
        log = self.folder / f"{arguments[0]}.log"
        with log.open("a") as output:
            command = subprocess.Popen(
                [sys.executable, "-m", "deploy.cli", *arguments],
                cwd=self.folder,
                env={**os.environ, **self.environment, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
                stdout=output,
                stderr=output,
                text=True,
            )
        try:
            yield command
        finally:
            if command.poll() is None:
                command.send_signal(signal.SIGINT)
            code = command.wait(60)
            print(f"block-deploy {' '.join(arguments)}: ended with {code}\n{log.read_text()}")

    def status(self, code: int | None = 0) -> dict[str, Any]:
        """The fleet's report."""
        [report] = json.loads(self.deploy("status", "--json", code=code))
        return dict(report)

    def phases(self, code: int | None = None) -> dict[str, str]:
        """Group -> phase."""
        return {group["name"]: group["phase"] for group in self.status(code)["groups"]}


@dataclass
class Tally:
    """What became of requests."""

    served: Counter[str] = field(default_factory=Counter)
    """By instance."""
    failed: list[str] = field(default_factory=list)


def ask(url: str, count: int = 1) -> Tally:
    """Send requests one after the other; each must be answered whole."""
    tally = Tally()
    with OpenAI(base_url=url, api_key=CLIENT_KEY, max_retries=0, timeout=60) as client:
        for _ in range(count):
            _ask_once(client, tally)
    return tally


@contextmanager
def traffic(url: str, clients: int = 3, tokens: int = 9) -> Iterator[Tally]:
    """Requests for so many tokens, without a pause while inside."""
    tally, over = Tally(), threading.Event()

    def send() -> None:
        with OpenAI(base_url=url, api_key=CLIENT_KEY, max_retries=0, timeout=60) as client:
            while not over.is_set():
                _ask_once(client, tally, tokens)

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _ask_once(client: OpenAI, tally: Tally, tokens: int = 9) -> None:
    try:
        raw = client.completions.with_raw_response.create(
            model=MODEL, prompt="Hi", max_tokens=tokens, extra_body={"ignore_eos": True}
        )
        usage = raw.parse().usage
        assert usage is not None
        assert usage.completion_tokens == tokens
        tally.served[raw.headers["x-block-instance"]] += 1
    except OpenAIError as error:
        tally.failed.append(repr(error))


def wait_until(condition: Any, within_s: float) -> float:
    """Seconds until it held; fails if it never did."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s, "it never came to be so"
        time.sleep(0.3)
    return time.monotonic() - began_s

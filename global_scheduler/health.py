"""Health: finds out which instances are up and what they serve, and tells the fleet.

By asking: polls of ``/health``, and a short generation before an instance whose breaker is open gets
requests again, for a health page may answer while the engine behind it hangs. And by listening: where
somebody waits and nothing comes for anybody, something is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec

from block.config import SchedulerSettings
from block.errors import InstanceError, TransportError
from block.http.client import Client
from block.http.message import Headers, Response
from global_scheduler.fleet import Instance
from global_scheduler.model_list import parse_model_list

SLOW_SHARE = 0.2
"""Part of a poll's time limit after which new requests go elsewhere if they can."""
SLOW_POLLS_ALLOWED = 3
"""Polls in a row that may time out before an instance counts as down: a busy API server may take seconds
to answer, and that alone does not make it dead."""
POLLS_PER_MODEL_LIST = 30
"""How often the model list is read again: adapters come and go while a server runs."""
LISTEN_S = 0.25
"""Longest time between two looks at who waits in silence."""
_JSON = [(b"content-type", b"application/json")]

logger = logging.getLogger(__name__)


class HealthMonitor:
    """Watches instances, each at its own pace."""

    def __init__(self, http: Client, settings: SchedulerSettings, headers: Headers | None = None) -> None:
        """``headers`` go with every poll."""
        self._headers = headers or []
        self._http = http
        self._settings = settings
        self._tasks: dict[Instance, tuple[asyncio.Task[None], ...]] = {}

    async def watch(self, instance: Instance) -> None:
        """Watch it from now on; return when it has been polled once, or left again."""
        watch = _Watch(self._http, instance, self._settings, self._headers)
        self._tasks[instance] = tuple(asyncio.create_task(work) for work in (watch.poll_on(), watch.listen()))
        await watch.polled.wait()

    def leave(self, instance: Instance) -> None:
        """Watch it no more."""
        for task in self._tasks.pop(instance, ()):
            task.cancel()

    async def stop(self) -> None:
        """Watch none any more."""
        tasks = [task for pair in self._tasks.values() for task in pair]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Watch:
    """One instance under watch."""

    def __init__(
        self, http: Client, instance: Instance, settings: SchedulerSettings, headers: Headers
    ) -> None:
        self._http = http
        self._headers = headers
        self._instance = instance
        self._settings = settings
        self.polled = asyncio.Event()
        """Set after the first poll, and when there will be none any more."""
        self._slow_polls = 0
        self._polls_since_list = 0

    # By asking

    async def poll_on(self) -> None:
        interval_s = self._settings.health_interval_s
        try:
            await self.poll()
        finally:
            self.polled.set()
        while True:
            with contextlib.suppress(TimeoutError):
                # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with a doubt.
                async with asyncio.timeout(interval_s):
                    await self._instance.doubted.wait()
                await asyncio.sleep(interval_s / 10)  # doubts come in bursts; one poll settles them
            self._instance.doubted.clear()
            await self.poll()

    async def poll(self) -> None:
        was_healthy = self._instance.healthy
        healthy = await self._answers()
        if healthy is None:
            return
        if healthy and (not was_healthy or self._polls_since_list >= POLLS_PER_MODEL_LIST):
            await self._read_models()
        self._polls_since_list += 1
        if healthy:
            self._instance.healthy = True
        else:
            self._instance.give_up()
        if healthy != was_healthy:
            logger.warning("instance %s is %s", self._instance.name, "up" if healthy else "down")

    async def _answers(self) -> bool | None:
        """None while it is merely slow, which only makes others preferred."""
        limit_s = self._settings.health_timeout_s
        becoming_slow = self._http.loop.call_later(limit_s * SLOW_SHARE, self._call_slow)
        try:
            answer = await self._request(b"GET", b"/health")
        except TimeoutError:
            self._slow_polls += 1
            return None if self._slow_polls < SLOW_POLLS_ALLOWED else False
        except TransportError:
            return False
        finally:
            becoming_slow.cancel()
        self._slow_polls = 0
        self._instance.slow = False
        return answer.status == 200

    def _call_slow(self) -> None:
        self._instance.slow = True

    async def _read_models(self) -> None:
        """Failing here is no ground to call it down: what it serves stays as it was known."""
        self._polls_since_list = 0
        try:
            answer = await self._request(b"GET", b"/v1/models")
            if answer.status == 200:
                self._instance.models = parse_model_list(answer.body)
        except (TimeoutError, TransportError, InstanceError) as error:
            logger.warning("instance %s does not list its models: %s", self._instance.name, error)

    # By listening

    async def listen(self) -> None:
        pause_s = min(LISTEN_S, self._settings.suspect_after_s / 4, self._settings.breaker.trial_s / 2)
        while True:
            await asyncio.sleep(pause_s)
            self._judge_silence(self._http.loop.time())
            self._instance.breaker.pass_time(self._http.loop.time())
            if self._instance.healthy and self._instance.breaker.due(self._http.loop.time()):
                await self._check()

    def _judge_silence(self, now_s: float) -> None:
        instance, settings = self._instance, self._settings
        streams_s = instance.signs.silence_s(now_s, streams=True)
        instance.silent = streams_s > settings.suspect_after_s
        if (
            streams_s > settings.silence_timeout_s
            or instance.signs.silence_s(now_s, streams=False) > settings.whole_silence_timeout_s
        ):
            logger.error(
                "instance %s is wedged: requests wait, and nothing has come from it for %.1f s",
                instance.name,
                instance.signs.silence_s(now_s, streams=False),
            )
            instance.breaker.trip(now_s)
            instance.signs.give_up()

    async def _check(self) -> None:
        """Have one token generated. A refusal is an answer, too: not every model generates."""
        models = self._instance.models
        named = {"model": models[0].id} if models else {}
        body = msgspec.json.encode({**named, "prompt": "x", "max_tokens": 1})
        try:
            answer = await self._request(b"POST", b"/v1/completions", body)
            well = answer.status < 500
        except (TimeoutError, TransportError):
            well = False
        self._instance.breaker.checked(well=well, now_s=self._http.loop.time())
        logger.warning("instance %s %s again", self._instance.name, "may try" if well else "fails")

    async def _request(self, method: bytes, path: bytes, body: bytes = b"") -> Response:
        instance = self._instance
        return await self._http.fetch(
            method,
            instance.origin,
            instance.prefix + path,
            [*self._headers, *_JSON] if body else self._headers,
            body,
            timeout_s=self._settings.health_timeout_s,
        )

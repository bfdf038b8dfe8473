"""The way to one instance, whose answer comes to the sender. Does not choose instances."""

from __future__ import annotations

import asyncio

import msgspec

from block.config import SchedulerSettings
from block.http.client import Client, Opened
from block.http.client_connection import ClientConnection
from block.http.message import request_head
from global_scheduler.answer import Sender
from global_scheduler.attempt import Attempt
from global_scheduler.fleet import Instance


class Forward(msgspec.Struct, frozen=True):
    """What is sent on, whichever the instance."""

    path: bytes
    """With its query."""
    lines: bytes
    """Headers, each ended by its line end; but for host and length."""
    body: bytes
    stream: bool
    """Whether the client asked for one; anything else comes only when it is complete."""

    def head(self, instance: Instance) -> bytes:
        """As it goes there."""
        target = instance.prefix + self.path
        return request_head(b"POST", target, instance.origin.named, self.lines, len(self.body))


class Relay:
    """The way to the instances."""

    def __init__(self, http: Client, settings: SchedulerSettings) -> None:
        self._http = http
        self.loop = http.loop
        self._first_byte_s = settings.first_byte_timeout_s
        self._response_s = settings.response_timeout_s
        self._idle_s = settings.idle_timeout_s

    @property
    def now_s(self) -> float:
        """By the clock of deadlines, breakers and life signs."""
        return self.loop.time()

    def resting(self, instance: Instance) -> ClientConnection | None:
        """A connection to it that is open already; None if there is none."""
        return self._http.resting(instance.origin)

    def open(self, instance: Instance, opened: Opened) -> asyncio.Task[None]:
        """Have a new one opened; who does not want it any more cancels that."""
        return self._http.open(instance.origin, opened)

    def begin(
        self,
        sender: Sender,
        instance: Instance,
        connection: ClientConnection,
        forward: Forward,
        began_s: float,
        ends_s: float,
    ) -> Attempt:
        """An attempt that is ready to be sent, and must be closed.

        The first byte (of a stream) or the last (of anything else) has its time from ``began_s`` on. By
        ``ends_s`` the whole answer must be there.
        """
        limit_s = self._first_byte_s if forward.stream else self._response_s
        attempt = Attempt(
            sender, connection, began_s + limit_s, self._idle_s, streams=forward.stream, ends_s=ends_s
        )
        self._http.deadlines.watch(attempt)
        instance.signs.begin(attempt)
        return attempt

    def close(self, instance: Instance, attempt: Attempt) -> None:
        """It is over, or nobody waits for it any more."""
        instance.signs.end(attempt)
        self._http.deadlines.forget(attempt)
        attempt.drop()

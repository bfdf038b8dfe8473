"""The admin API: instances added, drained and taken away while the scheduler runs; lengths forgotten.

A change goes into the file that all workers follow, if there is one; else into this process alone, which is
refused where it would not be the only one. Who may do that is decided before.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated, Any

import msgspec

from block.config import InstanceConfig, parse_config
from block.errors import ConfigError, RequestError
from block.http.exchange import Exchange
from global_scheduler.fleet import Fleet, Instance
from global_scheduler.instance_file import InstanceFile
from global_scheduler.instance_list import Edit, with_draining, with_new, without
from global_scheduler.length_admin import PATH as LENGTHS
from global_scheduler.length_admin import LengthAdmin
from global_scheduler.replies import error_body, error_headers
from global_scheduler.roster import Roster

PREFIX = b"/admin/"
_PATH = re.compile(r"/admin/instances(?:/(?P<name>[A-Za-z0-9._-]{1,64})(?:/(?P<action>drain|resume))?)?")

logger = logging.getLogger(__name__)


class InstanceView(msgspec.Struct, frozen=True):
    """One instance as the admin API shows it."""

    name: str
    url: str
    predictor_url: str | None
    condition: str
    """ready, slow, silent, half_open, open, down, draining or leaving."""
    outstanding: int
    models: tuple[str, ...]


class FleetView(msgspec.Struct, frozen=True):
    """All instances, and the file they come from."""

    instances: tuple[InstanceView, ...]
    instances_file: str | None
    problem: str | None
    """What is wrong with that file; the last good list is followed meanwhile."""


class _Drain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    """How long its requests may take; None is what the settings say."""


_DRAIN = msgspec.json.Decoder(_Drain)


class Admin:
    """Answers what is asked below ``/admin/``."""

    def __init__(
        self, fleet: Fleet, roster: Roster, file: InstanceFile | None, lengths: LengthAdmin, *, alone: bool
    ) -> None:
        """``alone``: whether no other worker shares this one's port."""
        self._fleet = fleet
        self._roster = roster
        self._file = file
        self._lengths = lengths
        self._alone = alone
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, exchange: Exchange) -> None:
        """Answer, as soon as what is asked for is done."""
        task = asyncio.create_task(self._answer(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._route(exchange)
        except RequestError as error:
            _refuse(exchange, error)
        except Exception:
            logger.exception("%s failed inside the scheduler", exchange.request.path.decode("latin-1"))
            _refuse(exchange, RequestError("internal error", status=500))

    async def _route(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.path.startswith(LENGTHS):
            self._lengths.answer(exchange)
            return
        match = _PATH.fullmatch(request.path.decode("latin-1"))
        if match is None:
            raise RequestError(
                "no such path; known: /admin/instances[/NAME[/drain|/resume]], /admin/lengths[/reset]",
                status=404,
            )
        name, action = match["name"], match["action"]
        shape = "action" if action else "one" if name else "all"
        handlers: Mapping[tuple[str, bytes], Callable[[], Awaitable[None]]] = {
            ("all", b"GET"): lambda: self._show(exchange),
            ("all", b"POST"): lambda: self._change(exchange, partial(with_new, _new(request.body)), 201),
            ("one", b"DELETE"): lambda: self._change(exchange, partial(without, name), 202),
            ("action", b"POST"): lambda: self._change(exchange, _drain(name, action, request.body), 202),
        }
        handler = handlers.get((shape, request.method))
        if handler is None:
            allowed = ", ".join(method.decode() for known, method in handlers if known == shape)
            raise RequestError(f"{request.path.decode('latin-1')} takes {allowed}", status=405)
        await handler()

    async def _show(self, exchange: Exchange, status: int = 200) -> None:
        instances = (*self._fleet.instances, *self._roster.leaving)
        body = FleetView(
            instances=tuple(_view(one, leaving=one in self._roster.leaving) for one in instances),
            instances_file=None if self._file is None else str(self._file.path),
            problem=None if self._file is None else self._file.problem,
        )
        exchange.respond(status, [(b"content-type", b"application/json")], msgspec.json.encode(body))

    async def _change(self, exchange: Exchange, edit: Edit, status: int) -> None:
        if self._file is not None:
            try:
                configs = await asyncio.to_thread(self._file.change, edit, self._roster.configs)
            except ConfigError as error:
                raise RequestError(str(error), status=409, code="instances_file") from error
        elif self._alone:
            configs = edit(self._roster.configs)
        else:
            raise RequestError(
                "several workers share this port, and a change would reach only one of them; "
                "set instances_file, which all follow",
                status=409,
                code="no_instances_file",
            )
        self._roster.follow(configs)
        await self._show(exchange, status)


def _refuse(exchange: Exchange, error: RequestError) -> None:
    exchange.respond(error.status, error_headers(error), error_body(error))


def _new(body: bytes) -> InstanceConfig:
    try:
        raw = msgspec.json.decode(body, type=dict[str, Any])
        return parse_config(raw, InstanceConfig, "body")
    except (msgspec.DecodeError, UnicodeDecodeError, ConfigError) as error:
        raise RequestError(str(error)) from error


def _drain(name: str, action: str, body: bytes) -> Edit:
    try:
        order = _DRAIN.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(str(error)) from error
    return partial(with_draining, name, action == "drain", order.timeout_s)


def _view(instance: Instance, *, leaving: bool) -> InstanceView:
    return InstanceView(
        name=instance.name,
        url=instance.config.url,
        predictor_url=instance.config.predictor_url,
        condition="leaving" if leaving else instance.condition,
        outstanding=instance.outstanding,
        models=tuple(card.id for card in instance.models or ()),
    )

"""What is asked of a host's agent and what it answers: one JSON object per line, in turn."""

from __future__ import annotations

import msgspec

from deploy.fleet.group_state import GroupState


class Start(msgspec.Struct, frozen=True, tag=True):
    """Start a group unless it runs as it should. Answer: ``Done``."""

    group: msgspec.Raw
    secrets: dict[str, str] = {}


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End a group and remove its folder. Answer: ``Done``."""

    name: str


class Look(msgspec.Struct, frozen=True, tag=True):
    """Answer: ``Seen``."""


class Tell(msgspec.Struct, frozen=True, tag=True):
    """Write the list of instances that this host's schedulers follow. Answer: ``Done``."""

    instances: msgspec.Raw


class ReadLogs(msgspec.Struct, frozen=True, tag=True):
    """Answer: ``Logs``. ``offsets``: how much of each log is known already; others begin ``tail`` from
    their ends."""

    offsets: dict[str, int] = {}
    tail: int = 262_144


class Fetch(msgspec.Struct, frozen=True, tag=True):
    """GET (POST with a body) each URL from where the agent is. Answer: ``Fetched``."""

    pages: dict[str, str]
    """URL -> body, empty for GET."""
    key: str = ""
    """That all of them take; empty for none."""


class CleanUp(msgspec.Struct, frozen=True, tag=True):
    """End every group of this fleet here and remove its folder. Answer: ``Done``."""


Request = Start | Stop | Look | Tell | ReadLogs | Fetch | CleanUp


class Done(msgspec.Struct, frozen=True, tag=True):
    """As asked."""


class Seen(msgspec.Struct, frozen=True, tag=True):
    """What runs here."""

    groups: tuple[GroupState, ...]


class Logs(msgspec.Struct, frozen=True, tag=True):
    """New text of each process' log, whole lines only, and how far it was read."""

    text: dict[str, str]
    offsets: dict[str, int]


class Fetched(msgspec.Struct, frozen=True, tag=True):
    """URL -> what it answered; those that did not answer with 200 are missing."""

    pages: dict[str, str]


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It could not be done, and why."""

    reason: str


Answer = Done | Seen | Logs | Fetched | Refused

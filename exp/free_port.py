"""Ports of this machine for servers that are about to start."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from block.errors import ConfigError

_FIRST, _LAST = 20_000, 60_000


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_port_range(count: int) -> int:
    """The first of ``count`` neighbouring TCP ports that were free a moment ago; raises ConfigError."""
    for first in range(_FIRST, _LAST, count):
        with ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise ConfigError(f"no {count} neighbouring ports from {_FIRST} to {_LAST} are free")

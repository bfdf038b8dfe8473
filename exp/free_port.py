"""Ports of this machine for servers that are about to start."""

from __future__ import annotations

import socket

from block.errors import StateError


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_port_range(count: int) -> int:
    """The first of neighbouring ports that were free a moment ago; raises StateError if there are none."""
    for first in range(20_000, 60_000, 97):
        if all(_is_free(first + offset) for offset in range(count)):
            return first
    raise StateError(f"no {count} neighbouring ports are free on this machine")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

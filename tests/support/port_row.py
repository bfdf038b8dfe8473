"""Ports in a row, for what counts them up from the first."""

from __future__ import annotations

import random
import socket


def ports_in_a_row(count: int) -> int:
    """The first of ``count`` ports in a row that were free a moment ago."""
    for first in random.sample(range(15_000, 32_000, 50), 100):  # below those given to clients
        sockets = []
        try:
            for port in range(first, first + count):
                probe = socket.socket()
                sockets.append(probe)
                probe.bind(("", port))
            return first
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
    raise OSError("no free ports")

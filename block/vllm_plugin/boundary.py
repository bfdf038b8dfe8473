"""Where this package's failures end: vLLM serves on, its log says why the feed stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

from vllm.logger import init_logger

ArgumentsT = ParamSpec("ArgumentsT")

logger = init_logger("vllm.block.feed")


class Boundary:
    """Runs the feed's work until its first failure, on whichever thread that happens; nothing after it."""

    def __init__(self) -> None:
        self.broken = False

    def run(
        self, action: Callable[ArgumentsT, object], *args: ArgumentsT.args, **kwargs: ArgumentsT.kwargs
    ) -> None:
        """Do ``action``; its failure is logged once and closes the boundary for good."""
        if self.broken:
            return
        try:
            action(*args, **kwargs)
        except Exception:
            self.broken = True
            logger.exception("The state feed failed and is off from here on; vLLM serves on without it")

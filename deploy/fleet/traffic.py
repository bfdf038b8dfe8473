"""What came to a fleet since somebody began to look: counted from its engines' metrics pages. Pure.

Engines count since their own start, come and go, and are restarted; a fleet's counts only grow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from deploy.fleet.engine_gauges import EngineGauges, read_gauges
from deploy.fleet.request_sizes import Histogram, draw_sizes, read_histogram

_PROMPTS, _OUTPUTS = "request_prompt_tokens", "request_generation_tokens"
_FEWEST = 32
"""Requests of a window that tell their sizes; with fewer, all that the engines have served do."""


@dataclass(frozen=True, slots=True)
class _Page:
    """One engine at one look."""

    gauges: EngineGauges
    come: int
    """Requests that have ever come to it, as far as was seen."""
    prompts: Histogram
    outputs: Histogram

    @property
    def total_s(self) -> float:
        """Of all its answers together."""
        return self.gauges.requests * (self.gauges.mean_e2e_s or 0.0)


_NOTHING = _Page(read_gauges(""), 0, Histogram(), Histogram())


@dataclass
class Traffic:
    """The counts of one fleet; each look is noted with the pages that could be had."""

    window_s: float
    """Sizes are those of requests that ended within it."""
    requests: int = 0
    """All that have come. Those that their clients gave up may be missing."""
    measured_e2e_s: float | None = None
    """The highest of the engines' means over the answers since the last look."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Prompt and response tokens of requests like the latest."""
    mean_size: tuple[int, int] | None = None
    """Of all that the engines have answered; None before the first."""
    _pages: dict[str, _Page] = field(default_factory=dict)
    _prompts: Histogram = field(default_factory=Histogram)
    _outputs: Histogram = field(default_factory=Histogram)
    _window: deque[tuple[float, Histogram, Histogram]] = field(default_factory=deque)

    def note(self, at_s: float, pages: Mapping[str, str], fresh: Collection[str] = ()) -> None:
        """Metrics pages by engine. Of an engine that is seen for the first time only what comes from now on
        counts, unless it is among ``fresh``: those have started since the last look."""
        means_s = [self._take(name, page, name in fresh) for name, page in pages.items() if page]
        self.measured_e2e_s = max((mean_s for mean_s in means_s if mean_s is not None), default=None)
        self._window.append((at_s, self._prompts, self._outputs))
        while len(self._window) > 2 and self._window[1][0] <= at_s - self.window_s:
            self._window.popleft()
        _, prompts, outputs = self._window[0]
        lately = self._prompts.plus(prompts, -1), self._outputs.plus(outputs, -1)
        self.sizes = draw_sizes(*(self._ever() if lately[0].count < _FEWEST else lately))
        self.mean_size = self._mean_size()

    def gauges(self, name: str) -> EngineGauges | None:
        """What an engine said last."""
        page = self._pages.get(name)
        return page.gauges if page else None

    def _take(self, name: str, text: str, fresh: bool) -> float | None:
        """One page; returns the mean E2E of the answers since the last."""
        gauges, before = read_gauges(text), self._pages.get(name)
        prompts, outputs = read_histogram([text], _PROMPTS), read_histogram([text], _OUTPUTS)
        come = gauges.requests + gauges.outstanding
        if before is None and not fresh:
            self._pages[name] = _Page(gauges, come, prompts, outputs)
            return None
        if before is None or gauges.requests < before.gauges.requests:
            before = _NOTHING  # It is new, or was started anew.
        # A request that its client gave up is in no count any more, which is no sign of a start.
        now = self._pages[name] = _Page(gauges, max(come, before.come), prompts, outputs)
        self.requests += now.come - before.come
        self._prompts = self._prompts.plus(prompts.plus(before.prompts, -1))
        self._outputs = self._outputs.plus(outputs.plus(before.outputs, -1))
        answers = gauges.requests - before.gauges.requests
        return (now.total_s - before.total_s) / answers if answers else None

    def _ever(self) -> tuple[Histogram, Histogram]:
        prompts, outputs = Histogram(), Histogram()
        for page in self._pages.values():
            prompts, outputs = prompts.plus(page.prompts), outputs.plus(page.outputs)
        return prompts, outputs

    def _mean_size(self) -> tuple[int, int] | None:
        gauges = [page.gauges for page in self._pages.values()]
        requests = sum(each.requests for each in gauges)
        if not requests:
            return None
        prompt = sum(each.requests * each.mean_prompt_tokens for each in gauges) / requests
        output = sum(each.requests * each.mean_output_tokens for each in gauges) / requests
        return max(round(prompt), 1), max(round(output), 1)

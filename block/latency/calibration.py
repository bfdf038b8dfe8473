"""Corrects a step-latency model while the engine serves, from the feed's own step times.

The base model's curve over tokens becomes a curve of free heights at its knots and at powers of two, tied
to the base: one common factor is the cheapest change, then an offset per step, then heights that differ
from their neighbours'. Context, products and requests each get their own slope. Together they are again
the form that the simulation evaluates. The fit is robust (Huber, relative errors), bounded (a height stays
within 1/8 and 8 times the base's, plus the offset), and looks at a window that keeps recent steps of every
kind of shape, so an hour of decodes does not forget what a prompt costs. On top of it comes the engine's
present pace, as far as it lasts (``block.latency.pace``).

What is learned is the engine's *cadence*: from one step's end to the next one's while work is waiting. The
feed's ``duration_s`` starts at the step's submission; what the engine does between an end and the next
submission (output processing, scheduling) shows as a gap when scheduling is synchronous, and hides behind
the forward pass when it is not. A step that follows another while requests were running counts with its
gap; one that met an idle engine counts with the usual gap. Idle time itself is never learned from.

Knows no clock, no sockets and no engine: records come in by call.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from block.latency.base import KernelLatency, StepLatencyModel
from block.latency.curve_fit import Correction, CurveFit
from block.latency.pace import Pace
from block.latency.probation import Fresh, Probation
from block.latency.shapes import COLUMNS, kernel_seconds, shape_row
from block.latency.step_window import StepWindow
from block.types import BatchShape, CalibrationStatus, StepRecord

REFIT_STEPS = 64
FIRST_REFIT_STEPS = 8
_TOGETHER = 16
"""Steps whose speed is judged together; fewer would be told from noise, more would mix two speeds."""
_GAPS_KEPT = 64
_ERRORS_KEPT = 256
# A new version is worth it when one in ten of the steps kept changes by this much,
_NOTICEABLE = 0.004
# or any by this much: prompts can be rarer than that.
_LARGE = 0.02
# Deviations from a model say nothing of one from which most steps differ by this much.
_ANOTHER_MODEL = 0.05
_SETTLED_STEPS = 512
"""Before, a speed is no more the engine's own than another: its first steps compile and warm caches."""
_PACE_KEPT_S = 5.0
"""A pause after which the pace of the steps before it says nothing."""
_SHORTEST_S = 1e-5


@dataclass(frozen=True, slots=True)
class CalibratedLatency:
    """A ``StepLatencyModel``: the base as corrected at one moment."""

    version: str
    kernel: KernelLatency

    def seconds(self, shape: BatchShape) -> float:
        """Duration of one step of this shape, the engine's own work included."""
        return self.kernel.seconds(shape)

    def covers(self, shape: BatchShape) -> bool:
        """Whether the token count lies within the base or what has been seen since."""
        return self.kernel.token_knots[0] <= shape.tokens <= self.kernel.token_knots[-1]

    def at_pace(self, factor: float) -> Self:
        """The same where every step takes ``factor`` times as long."""
        return type(self)(self.version, self.kernel.scaled(factor))


class OnlineCalibration:
    """Follows one engine's steps. ``current()`` is immutable; a refit makes another."""

    def __init__(self, base: StepLatencyModel, config_hash: str, max_tokens: int = 0) -> None:
        """``config_hash`` names the engine's configuration; ``max_tokens`` is its largest batch, if known."""
        self._base = base
        self._hash = config_hash
        self._fit = CurveFit(base.kernel, max_tokens)
        self.reset()

    def current(self) -> StepLatencyModel:
        """The model in force; the base until enough steps were seen."""
        return self._current

    def reset(self) -> None:
        """Forget everything learned."""
        self._current: StepLatencyModel = self._base
        self._learned: StepLatencyModel = self._base
        self._pace, self._factor = Pace(), 1.0
        self._probation = Probation()
        self._changes = 0
        self._samples = 0
        self._unfitted = 0
        """Steps in the window that no fit has seen."""
        self._correction = self._published = self._fit.none
        self._window = StepWindow(self._fit.terms)
        self._pending: list[tuple[float, ...]] = []
        self._gaps: deque[float] = deque(maxlen=_GAPS_KEPT)
        self._errors: deque[float] = deque(maxlen=_ERRORS_KEPT)
        self._base_errors: deque[float] = deque(maxlen=_ERRORS_KEPT)
        self.forget_order()

    def forget_order(self) -> None:
        """The next record does not follow the last one: the engine restarted."""
        self._last_step, self._last_end_s = -1, -math.inf
        self._pace.forget()

    def observe(self, records: Iterable[StepRecord], now_s: float | None = None) -> bool:
        """Take in finished steps, oldest first; returns whether there is a new model.

        ``now_s`` is the engine's time of their telling; None is the last step's end.
        """
        for record in records:
            # An engine's clock that is set back makes steps of no length.
            if record.step > self._last_step and record.duration_s > 0 and record.shape.tokens > 0:
                self._take(record)
        early = self._samples < REFIT_STEPS
        if len(self._pending) >= (FIRST_REFIT_STEPS if early else _TOGETHER):
            self._take_in()
        if now_s is not None and now_s - self._last_end_s > _PACE_KEPT_S:
            self._pace.pause()
        refitted = self._unfitted >= (FIRST_REFIT_STEPS if early else REFIT_STEPS) and self._refit()
        return self._keep_pace() or refitted

    @property
    def status(self) -> CalibrationStatus:
        """For people and metrics."""
        base_slope, slope = self._base.kernel.per_context_token_s, self._learned.kernel.per_context_token_s
        return CalibrationStatus(
            version=self._learned.version,
            samples=self._samples,
            factor=self._published.factor,
            offset_s=self._published.offset_s,
            context_factor=slope / base_slope if base_slope > 0 else 1.0,
            step_overhead_s=self._usual_gap_s(),
            recent_error=float(np.median(self._errors)) if self._errors else 0.0,
            base_error=float(np.median(self._base_errors)) if self._base_errors else 0.0,
            pace=self._factor,
        )

    def _take(self, record: StepRecord) -> None:
        """Note a step with its cadence; NaN marks a gap that the step itself does not tell."""
        shape = record.shape
        gap_s = max(record.submit_s - self._last_end_s, 0.0)
        # A first record follows nothing. Where a decode was running before, the engine had work.
        next_one = record.step == self._last_step + 1 and gap_s < math.inf
        follows = next_one and (shape.decode_tokens > 0 or gap_s == 0.0)
        if follows:
            self._gaps.append(gap_s)
        self._last_step, self._last_end_s = record.step, record.end_s
        self._samples += 1
        self._pending.append((*shape_row(shape), record.duration_s, gap_s if follows else np.nan))
        if follows:
            real_s = record.duration_s + gap_s
            self._pace.note(real_s, self._learned.seconds(shape))
            self._errors.append(abs(self._current.seconds(shape) - real_s) / real_s)

    def _keep_pace(self) -> bool:
        """Bring the model to the engine's present pace; returns whether that changes it."""
        factor = self._pace.factor
        if not isinstance(self._learned, CalibratedLatency) or abs(factor - self._factor) < _NOTICEABLE:
            return False
        self._factor, self._current = factor, self._learned.at_pace(factor)
        return True

    def _usual_gap_s(self) -> float:
        return float(np.median(self._gaps)) if self._gaps else 0.0

    def _take_in(self) -> None:
        """Put what is pending into the window, unless its speed is in doubt."""
        pending = np.array(self._pending)
        self._pending.clear()
        gaps = np.where(np.isnan(pending[:, -1]), self._usual_gap_s(), pending[:, -1])
        shapes, seconds = pending[:, :COLUMNS], pending[:, COLUMNS] + gaps
        base_s = kernel_seconds(self._base.kernel, shapes)
        self._base_errors.extend((np.abs(base_s - seconds) / seconds).tolist())
        rows, model = self._fit.rows(shapes), self._correction.terms
        misses = seconds / np.maximum(rows @ model, _SHORTEST_S)
        change, known = self._window.change_of_speed(shapes, misses, model)
        fresh = Fresh(shapes, rows, seconds, change, known, self._window.taken)
        released, lasting = self._probation.admit(fresh, settled=self._samples >= _SETTLED_STEPS)
        if lasting != 1.0:
            self._window.rescale(lasting, released[0].taken)
        for each in released:
            self._window.add(each.shapes, each.rows, each.seconds)
            self._unfitted += len(each.seconds)

    def _refit(self) -> bool:
        self._unfitted = 0
        self._correction = self._fit.refit(self._window, self._correction)
        self._pace.learn()
        return self._publish(self._correction)

    def _publish(self, correction: Correction) -> bool:
        rows, *_ = self._window.contents()
        before = rows @ self._published.terms
        change = np.abs(rows @ correction.terms - before) / np.maximum(before, 1e-9)
        if float(np.quantile(change, 0.9)) < _NOTICEABLE and float(change.max()) < _LARGE:
            return False
        if float(np.median(change)) > _ANOTHER_MODEL:
            self._pace.forget()
        self._changes += 1
        self._published = correction
        kernel = self._fit.kernel(correction, self._window.most_tokens)
        self._learned = CalibratedLatency(f"{self._base.version}+c{self._changes}@{self._hash}", kernel)
        self._factor = self._pace.factor
        self._current = self._learned.at_pace(self._factor)
        return True

"""Vidur's way to fit operators: random forests on logarithms. Beyond its measurements a forest stays flat."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from block.errors import PackError
from block.latency.least_squares import Floats
from vidur_adapter.array_list import packed, unpacked
from vidur_adapter.operator import Operator, Samples, Timings, within
from vidur_adapter.trees import Trees

_GROW = (sys.executable, "-m", "vidur_adapter.tree_growth")


@dataclass(eq=False)
class Woodland:
    """Forests that grow together, by one child process, once the first of them is asked."""

    _planted: list[Samples] = field(default_factory=list)
    _grown: dict[int, Trees] = field(default_factory=dict)
    """By place among those planted."""

    def plant(self, samples: Samples) -> Operator:
        """One more."""
        self._planted.append(samples)
        return Forest(samples, self, len(self._planted) - 1)

    def trees(self, place: int) -> Trees:
        """Of one; raises PackError if it cannot be grown."""
        if place not in self._grown:
            young = [each for each in range(len(self._planted)) if each not in self._grown]
            grown = _grown([self._planted[each] for each in young])
            self._grown.update(zip(young, grown, strict=True))
        return self._grown[place]


@dataclass(frozen=True, slots=True)
class Forest:
    """An ``Operator``."""

    samples: Samples
    woodland: Woodland = field(repr=False, compare=False)
    place: int

    @property
    def name(self) -> str:
        """The samples'."""
        return self.samples.name

    @property
    def axes(self) -> tuple[str, ...]:
        """The samples'."""
        return self.samples.axes

    def time(self, shapes: Floats) -> Timings:
        """``shapes`` is (shapes, axes)."""
        seconds = np.exp(self.woodland.trees(self.place).mean(np.log1p(shapes)))
        return Timings.measured(seconds, within(self.samples, shapes))


def _grown(planted: Sequence[Samples]) -> list[Trees]:
    logarithms = (
        array for each in planted for array in (np.log1p(each.shapes), np.log(np.maximum(each.seconds, 1e-9)))
    )
    done = subprocess.run(_GROW, input=packed(logarithms), capture_output=True, check=False)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise PackError(f"forest: cannot be grown ({why}); take another estimator, or mend scikit-learn")
    arrays = iter(unpacked(done.stdout))
    return [Trees(*four) for four in zip(arrays, arrays, arrays, arrays, strict=True)]

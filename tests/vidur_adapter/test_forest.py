"""Forests: what the trees say, who grows them, what stays of that."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from block.errors import PackError
from vidur_adapter import forest
from vidur_adapter.forest import Woodland
from vidur_adapter.operator import Samples
from vidur_adapter.tree_growth import grown


def samples(count: int = 400) -> Samples:
    """Noisy, and the first axis repeats itself, as measured batch sizes do."""
    source = np.random.default_rng(5)
    shapes = np.column_stack([2.0 ** source.integers(0, 9, count), source.uniform(16, 8192, count)])
    seconds = 1e-6 * (5 + 0.1 * shapes[:, 0] + 0.002 * shapes[:, 0] * shapes[:, 1])
    return Samples("decode", ("decodes", "context"), shapes, seconds * source.normal(1, 0.02, count))


def test_trees_answer_as_those_that_they_were_made_of() -> None:
    """Also for shapes that lie on the very bounds of splits."""
    from sklearn.ensemble import RandomForestRegressor

    measured = samples()
    x, y = np.log1p(measured.shapes), np.log(measured.seconds)
    theirs = RandomForestRegressor(n_estimators=30, random_state=0).fit(x, y)
    edges = [(bound, bound) for tree in theirs.estimators_ for bound in tree.tree_.threshold[:4]]
    asked = np.vstack([x, x[:200] / 2 + x[200:] / 2, edges])
    assert grown(x, y).mean(asked).tolist() == pytest.approx(theirs.predict(asked).tolist(), rel=1e-6)


def test_a_forest_is_close_to_what_it_was_measured_on() -> None:
    measured = samples()
    off = Woodland().plant(measured).time(measured.shapes).seconds / measured.seconds - 1
    assert np.median(np.abs(off)) < 0.03


def test_all_that_were_planted_grow_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    children = []

    def counted(*arguments: object, **options: object) -> object:
        children.append(arguments)
        return run(*arguments, **options)

    run = subprocess.run
    monkeypatch.setattr(forest.subprocess, "run", counted)
    woodland = Woodland()
    early = [woodland.plant(samples(count)) for count in (100, 200)]
    first = [each.time(samples(5).shapes).seconds for each in early]
    assert len(children) == 1
    late = woodland.plant(samples(300))
    late.time(samples(5).shapes)
    assert len(children) == 2
    again = [each.time(samples(5).shapes).seconds for each in early]
    assert np.array_equal(first, again)
    assert len(children) == 2


def test_nothing_of_scikit_learn_stays_behind() -> None:
    program = (
        "import sys; import numpy as np; from vidur_adapter.forest import Woodland; "
        "from vidur_adapter.operator import Samples; x = np.arange(1, 50.0); "
        "Woodland().plant(Samples('x', ('n',), x[:, None], x)).time(x[:, None]); "
        "print('sklearn' in sys.modules or 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_child_that_fails_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest, "_GROW", (sys.executable, "-c", "raise ImportError('no trees here')"))
    with pytest.raises(PackError, match="no trees here"):
        Woodland().plant(samples()).time(np.array([[1.0, 16.0]]))

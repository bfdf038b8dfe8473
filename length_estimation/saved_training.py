"""Trains an estimator and saves it with its card: ``block-length train``'s work, and evaluation's.

The card's scores are of the part that training held out, which also said when to stop: a little
flattering. ``block-length evaluate`` is the honest judge.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from block.errors import PackError
from length_estimation.contenders import Contender, answers_of
from length_estimation.cut_responses import limits_of
from length_estimation.dataset import Example
from length_estimation.estimator import Estimator
from length_estimation.features import ARRAYS, KIND, FeaturesEstimator
from length_estimation.model_folder import CARD, Card, write_card
from length_estimation.scores import Scores
from length_estimation.split import groups_of, held_out

if TYPE_CHECKING:
    from length_estimation.features_training import FeaturesOptions
    from length_estimation.roberta_training import Progress, RobertaOptions, TrainedRoberta

CHECKPOINT: Final = "checkpoint"


def train_and_save_features(
    examples: Sequence[Example],
    data: dict[str, Any],
    out: Path,
    options: FeaturesOptions,
    on_step: Callable[[str, float], None],
) -> Card:
    """A ``features`` model in the folder ``out``; ``data`` goes into the card as it is."""
    from length_estimation.features_training import train_features

    prepare(out)
    groups = groups_of([example.keys for example in examples])
    model = train_features(examples, groups, options, on_step)
    _discard(out)
    model.save(out / ARRAYS)
    estimator = FeaturesEstimator(model, "trained")
    packages = ("numpy", "scipy", "scikit-learn")
    return _write(out, KIND, [ARRAYS], examples, estimator, data, options, options.seed, packages)


def train_and_save_roberta(
    examples: Sequence[Example],
    data: dict[str, Any],
    out: Path,
    options: RobertaOptions,
    on_epoch: Callable[[Progress], None],
    on_share: Callable[[float], None] = lambda _: None,
) -> Card:
    """A ``roberta`` model in the folder ``out``; goes on from the checkpoint there, if there is one."""
    from length_estimation.encoder import save_regressor
    from length_estimation.roberta import INPUT
    from length_estimation.roberta_training import train_roberta

    prepare(out)
    groups = groups_of([example.keys for example in examples])
    trained = train_roberta(examples, groups, options, out / CHECKPOINT, on_epoch, on_share)
    _discard(out)
    files = [*save_regressor(trained.encoder.regressor, out), INPUT, "tokenizer.json"]
    (out / INPUT).write_bytes(msgspec.json.encode(trained.form))
    trained.encoder.tokenizer.save(str(out / "tokenizer.json"))
    shutil.rmtree(out / CHECKPOINT)
    packages = ("torch", "transformers", "tokenizers", "safetensors")
    return _write(
        out, "roberta", files, examples, roberta_estimator(trained), data, options, options.seed, packages
    )


def roberta_estimator(trained: TrainedRoberta) -> Estimator:
    """What was trained, as an estimator that runs in torch."""
    import torch

    from length_estimation.roberta import PromptEncoding, RobertaEstimator

    regressor = trained.encoder.regressor

    def run(ids: Any, mask: Any) -> Any:
        with torch.inference_mode():
            return regressor(torch.from_numpy(ids), torch.from_numpy(mask)).double().numpy()

    return RobertaEstimator(
        PromptEncoding(trained.encoder.tokenizer, trained.form), trained.form, run, "trained"
    )


def roberta_contender(options: Callable[[int], RobertaOptions]) -> Contender:
    """For evaluation: trains anew on each part; ``options`` of a seed."""

    def make(examples: Sequence[Example], seed: int) -> Estimator:
        from length_estimation.roberta_training import train_roberta

        groups = groups_of([example.keys for example in examples])
        return roberta_estimator(train_roberta(examples, groups, options(seed)))

    return Contender(make, recalibrate=True)


def prepare(out: Path) -> None:
    """Make the folder; a model that lies there stays until it is replaced.

    Raises PackError if it is something else.
    """
    known = out / CARD
    if out.exists() and not out.is_dir():
        raise PackError(f"{out}: is a file; name a folder with --out")
    if out.is_dir() and any(out.iterdir()) and not known.is_file() and not (out / CHECKPOINT).is_dir():
        raise PackError(f"{out}: holds something else; name an empty or a new folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PackError(f"{out}: cannot be made ({error.strerror}); check --out") from error


def _discard(out: Path) -> None:
    """From now on there is no model there, until the new one has its card."""
    (out / CARD).unlink(missing_ok=True)


def _write(
    out: Path,
    kind: str,
    files: list[str],
    examples: Sequence[Example],
    estimator: Estimator,
    data: dict[str, Any],
    options: Any,
    seed: int,
    packages: tuple[str, ...],
) -> Card:
    return write_card(
        out,
        kind,
        files,
        made=datetime.now(UTC).date().isoformat(),
        data={**data, "rows": len(examples)},
        settings=asdict(options),
        metrics=_held_out_scores(examples, estimator, seed),
        packages=packages,
    )


def _held_out_scores(examples: Sequence[Example], estimator: Estimator, seed: int) -> dict[str, Any]:
    groups = groups_of([example.keys for example in examples])
    rows = np.flatnonzero(held_out(groups, seed))
    chosen = [examples[i] for i in rows]
    answers = answers_of(estimator, chosen, groups[rows]).within(limits_of(chosen))
    return {"rows": len(rows), "cut": int(answers.cut.sum()), **asdict(Scores.of(answers))}

"""``block-length evaluate``: each data set in turn, a table each, and one JSON line for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, TaskID

from block.errors import ConfigError
from length_estimation.contenders import CONTENDERS, Contender
from length_estimation.dataset import read_examples
from length_estimation.evaluation import Evaluation, EvaluationOptions, evaluate
from length_estimation.evaluation_report import draw, report_table
from length_estimation.out_file import check_figure
from length_estimation.saved_training import roberta_contender
from length_estimation.token_counter import make_token_counter

if TYPE_CHECKING:
    from length_estimation.roberta_training import RobertaOptions


@dataclass(frozen=True, slots=True)
class EvaluateCommand:
    """What was asked for."""

    names: tuple[str, ...]
    folds: int
    rounds: int | None
    resamples: int
    seed: int
    encoder: str | None
    epochs: int
    learning_rate: float
    figure: Path | None

    def run(self, data: Sequence[Path], tokenizer: Path | None, progress: Progress) -> dict[str, Evaluation]:
        """Evaluations by data set's name. Raises PackError or ConfigError."""
        if self.rounds is not None and self.rounds > self.folds:
            raise ConfigError(f"--rounds {self.rounds}: there are {self.folds} parts (--folds)")
        if self.figure is not None:
            check_figure(self.figure)
        counter = make_token_counter(tokenizer)
        table = self._contenders()
        options = EvaluationOptions(self.names, self.folds, self.rounds, self.resamples, self.seed)
        done = {}
        for path in data:
            name = path.resolve().name if path.resolve().name not in done else str(path)
            task = progress.add_task(name, total=self.rounds or self.folds)
            done[name] = evaluate(
                read_examples(path, counter), options, table, partial(_tell, progress, task)
            )
        return done

    def show(self, evaluations: Mapping[str, Evaluation], console: Console) -> None:
        """Print the tables, draw the figure."""
        for name, evaluation in evaluations.items():
            console.print(report_table(name, evaluation))
        if self.figure is not None:
            draw(evaluations, self.figure)

    def summary(self, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
        """Of a single data set its figures, of several a mapping to theirs."""
        if len(evaluations) == 1:
            return next(iter(evaluations.values())).summary()
        return {"sets": {name: evaluation.summary() for name, evaluation in evaluations.items()}}

    def _contenders(self) -> Mapping[str, Contender]:
        if "roberta" not in self.names:
            return CONTENDERS
        if self.encoder is None:
            raise ConfigError("roberta: needs --encoder, the encoder to train from")
        return {**CONTENDERS, "roberta": roberta_contender(self._roberta_options)}

    def _roberta_options(self, seed: int) -> RobertaOptions:
        from length_estimation.roberta_training import RobertaOptions

        return RobertaOptions(self.encoder or "", self.epochs, learning_rate=self.learning_rate, seed=seed)


def _tell(progress: Progress, task: TaskID, done: int, _all: int) -> None:
    progress.update(task, completed=done)

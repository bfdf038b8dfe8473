"""``block-length evaluate``: each data set in turn, a table each, and one JSON line for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from block.errors import ConfigError
from length_estimation.contenders import CONTENDERS, Contender
from length_estimation.dataset import read_examples
from length_estimation.evaluation import Evaluation, EvaluationOptions, evaluate
from length_estimation.evaluation_report import draw, report_table
from length_estimation.token_counter import make_token_counter


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

    def run(self, data: Sequence[Path], tokenizer: Path | None, progress: Progress) -> dict[str, Evaluation]:
        """Evaluations by data set's name. Raises PackError or ConfigError."""
        if self.rounds is not None and self.rounds > self.folds:
            raise ConfigError(f"--rounds {self.rounds}: there are {self.folds} parts (--folds)")
        counter = make_token_counter(tokenizer)
        table = self._contenders()
        options = EvaluationOptions(self.names, self.folds, self.rounds, self.resamples, self.seed)
        done = {}
        for path in data:
            name = path.resolve().name
            task = progress.add_task(name, total=self.rounds or self.folds)
            examples = read_examples(path, counter)
            done[name] = evaluate(
                examples, options, table, lambda part, _, task=task: progress.update(task, completed=part)
            )
        return done

    def show(self, evaluations: Mapping[str, Evaluation], console: Console, figure: Path | None) -> None:
        """Print the tables, draw the figure."""
        for name, evaluation in evaluations.items():
            console.print(report_table(name, evaluation))
        if figure is not None:
            draw(evaluations, figure)

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
        from length_estimation.roberta_training import contender

        return {**CONTENDERS, "roberta": contender(self.encoder, self.epochs)}

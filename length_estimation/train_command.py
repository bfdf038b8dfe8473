"""``block-length train``: reads the data, trains one kind of estimator, shows how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.progress import Progress

from length_estimation.dataset import Example, data_file, read_examples
from length_estimation.model_folder import counted_by, file_digest
from length_estimation.saved_training import train_and_save_features, train_and_save_roberta
from length_estimation.token_counter import make_token_counter

if TYPE_CHECKING:
    from length_estimation import roberta_training


@dataclass(frozen=True, slots=True)
class TrainCommand:
    """What was asked for. The methods return the card as one line of JSON."""

    data: Sequence[Path]
    out: Path
    seed: int
    tokenizer: Path | None

    def features(self, progress: Progress) -> str:
        """Trees on lexical features."""
        from length_estimation.features_training import FeaturesOptions

        examples = self._examples()
        task = progress.add_task("features", total=100)

        def show(what: str, share: float) -> None:
            progress.update(task, description=what, completed=round(100 * share))

        options = FeaturesOptions(seed=self.seed)
        return _line(train_and_save_features(examples, self._provenance(), self.out, options, show))

    def roberta(self, progress: Progress, options: roberta_training.RobertaOptions) -> str:
        """An encoder."""
        examples = self._examples()
        task = progress.add_task("roberta", total=options.epochs)

        def show(done: roberta_training.Progress) -> None:
            progress.console.print(
                f"epoch {done.epoch}: loss {done.train_loss:.4f}, held out {done.held_out_loss:.4f} "
                f"(best {done.best_loss:.4f})",
                highlight=False,
            )

        def move(epochs: float) -> None:
            progress.update(task, completed=round(epochs, 2))

        return _line(train_and_save_roberta(examples, self._provenance(), self.out, options, show, move))

    def _examples(self) -> list[Example]:
        counter = make_token_counter(self.tokenizer)
        return [example for path in self.data for example in read_examples(path, counter)]

    def _provenance(self) -> dict[str, Any]:
        """Names and digests, not paths: those say nothing elsewhere."""
        files = {path.resolve().name: file_digest(data_file(path)) for path in self.data}
        return {"sha256": files, "counted": counted_by(self.tokenizer)}


def _line(card: msgspec.Struct) -> str:
    return msgspec.json.encode(card).decode()

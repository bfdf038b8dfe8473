"""Response lengths as estimators say them that were trained on other prompts: real texts, real answers.

One part of the prompts trains, another is sent: no prompt and no conversation is in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from msgspec import structs

from block.errors import ConfigError, StateError
from block.simulation.memory import Floats, Ints
from exp.cluster.load import ClusterLoad, ExpectedLengths
from length_estimation.contenders import CONTENDERS, answers_of, field
from length_estimation.dataset import Example, read_examples
from length_estimation.quantiles import LEVELS
from length_estimation.saved_training import roberta_contender
from length_estimation.split import folds_of, groups_of
from length_estimation.token_counter import ByteTokenizer, TokenCounter

if TYPE_CHECKING:
    from length_estimation.roberta_training import RobertaOptions

_FOLDERS = "text_*"
_PARTS = 3
"""One of them is sent, the others train."""
_MOST_TOKENS = 4000


@dataclass(frozen=True, slots=True, eq=False)
class TextLengths:
    """Requests with the lengths of real answers, and what each estimator said of them beforehand."""

    prompt_tokens: Ints
    output_tokens: Ints
    said: Mapping[str, Floats]
    """Estimator -> (requests, levels) quantiles."""

    def load(self, estimator: str | None, requests: int, seed: int) -> ClusterLoad:
        """So many of them at one per second, drawn by the seed; None: with the truth.

        Raises ConfigError when there are too few.
        """
        if requests > len(self.prompt_tokens):
            raise ConfigError(
                f"--requests {requests}: only {len(self.prompt_tokens)} prompts are held out; ask for fewer"
            )
        random = np.random.default_rng(seed)
        rows = random.permutation(len(self.prompt_tokens))[:requests]
        gaps_s = random.exponential(1.0, requests)
        load = ClusterLoad(np.cumsum(gaps_s) - gaps_s[0], self.prompt_tokens[rows], self.output_tokens[rows])
        if estimator is None:
            return load
        tokens = np.maximum.accumulate(self.said[estimator][rows], axis=1)
        return replace(load, expected=ExpectedLengths(np.array(LEVELS), tokens))

    def save(self, path: Path) -> None:
        """As numpy arrays."""
        kept: dict[str, Any] = {f"said-{name}": tokens for name, tokens in self.said.items()}
        np.savez(path, prompt_tokens=self.prompt_tokens, output_tokens=self.output_tokens, **kept)

    @classmethod
    def read(cls, path: Path, estimators: Sequence[str]) -> Self:
        """What ``save`` wrote; raises StateError if it is not of these estimators."""
        with np.load(path) as kept:
            missing = [name for name in estimators if f"said-{name}" not in kept]
            if missing:
                raise StateError(f"{path}: nothing there of {', '.join(missing)}; delete it to train anew")
            said = {name: kept[f"said-{name}"] for name in estimators}
            return cls(kept["prompt_tokens"], kept["output_tokens"], said)


@lru_cache(maxsize=2)
def text_lengths(data: Path, estimators: tuple[str, ...], kept: Path | None = None) -> TextLengths:
    """As ``read_text_lengths``, from the file ``kept`` where there is one, and kept there otherwise."""
    if kept is not None and kept.exists():
        return TextLengths.read(kept, estimators)
    lengths = read_text_lengths(data, estimators)
    if kept is not None:
        lengths.save(kept)
    return lengths


@lru_cache(maxsize=2)
def read_text_lengths(data: Path, estimators: tuple[str, ...]) -> TextLengths:
    """Train on two thirds of all prompts in the folder's text sets, and ask about the others.

    Raises ConfigError if there are none.
    """
    folders = sorted(data.glob(_FOLDERS))
    if not folders:
        raise ConfigError(
            f"{data}: no folder {_FOLDERS} of prompts and answers there; name another with --data"
        )
    counter = TokenCounter(ByteTokenizer())
    examples = [_anonymous(one) for folder in folders for one in read_examples(folder, counter)]
    examples = [one for one in examples if one.request.prompt_tokens + one.output_tokens <= _MOST_TOKENS]
    parts = folds_of(groups_of([example.keys for example in examples]), _PARTS, 0)
    training = [examples[row] for row in np.flatnonzero(parts != 0)]
    exam = [examples[row] for row in np.random.default_rng(0).permutation(np.flatnonzero(parts == 0))]
    made = field(estimators, training, 0, {**CONTENDERS, "roberta": roberta_contender(_tiny)})
    return TextLengths(
        np.array([example.request.prompt_tokens for example in exam], np.int64),
        np.array([example.output_tokens for example in exam], np.int64),
        {name: answers_of(made[name], exam, np.arange(len(exam))).tokens for name in estimators},
    )


def _tiny(seed: int) -> RobertaOptions:
    """Random weights and few of them: no pretrained encoder is part of this project."""
    from length_estimation.roberta_training import RobertaOptions

    return RobertaOptions("tiny", epochs=12, learning_rate=1e-3, seed=seed)


def _anonymous(example: Example) -> Example:
    """One fleet serves one model: who really answered is not told.

    What was cut is sent again with the limit that cut it, so that there its length is what will be generated.
    """
    return replace(example, request=structs.replace(example.request, model=""), cut=False)

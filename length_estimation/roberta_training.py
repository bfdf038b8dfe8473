"""Trains the encoder behind ``roberta``: pinball loss for the quantiles, Huber loss for the mean.

On a CPU or a GPU (with bfloat16 there). Every epoch leaves a checkpoint from which a run goes on as if it
had never stopped: shuffling and dropout follow from seed and epoch alone. Stops when the held-out
loss has not fallen for ``patience`` epochs, and keeps the best epoch's weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from block.errors import ConfigError
from length_estimation.conformal import Floats, shifts_for
from length_estimation.cut_responses import Lengths, beliefs, cut_flags
from length_estimation.dataset import Example, require_prompts
from length_estimation.encoder import Encoder, open_encoder
from length_estimation.prompt_text import read_prompt
from length_estimation.quantiles import LEVELS
from length_estimation.roberta import InputForm, PromptEncoding, encoder_text
from length_estimation.split import held_out
from length_estimation.training_checkpoint import TrainingState, keep, take_up

Ints = npt.NDArray[np.intp]

_ELSEWHERE: Final = ("device", "threads")
"""Options that a run may go on with changed: they say where, not what."""
_WARM_UP: Final = 0.06
"""Share of all steps over which the learning rate rises."""


@dataclass(frozen=True, slots=True)
class RobertaOptions:
    """How to train."""

    encoder: str = "roberta-base"
    epochs: int = 20
    batch: int = 32
    learning_rate: float = 1e-5
    most_tokens: int = 256
    patience: int = 4
    seed: int = 0
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: str = "auto"
    """Of the forward pass: float32, or bfloat16, which auto takes on a GPU."""
    layers: int | None = None
    """Of the encoder that are kept, from its first one; None keeps all."""
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """After an epoch."""

    epoch: int
    epochs: int
    train_loss: float
    held_out_loss: float
    best_loss: float


@dataclass(frozen=True, slots=True)
class TrainedRoberta:
    """What training makes."""

    encoder: Encoder
    form: InputForm
    epochs: int
    best_epoch: int
    held_out_loss: float


def train_roberta(
    examples: Sequence[Example],
    groups: Ints,
    options: RobertaOptions,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Progress], None] = lambda _: None,
    on_share: Callable[[float], None] = lambda _: None,
) -> TrainedRoberta:
    """Fit; ``checkpoint`` is a folder where the run's state is kept and taken up again.

    ``on_share`` hears how many epochs are done, in fractions. Raises ConfigError if the encoder or the
    device cannot be had or the loss is lost, PackError for a checkpoint of another run or without prompts.
    """
    require_prompts(examples)
    if not 0.0 < options.learning_rate < math.inf:
        raise ConfigError(f"--learning-rate {options.learning_rate:g}: must be above 0, and a number")
    torch.set_num_threads(options.threads)
    texts = (encoder_text(read_prompt(e.request.prompt_json), e.request.model) for e in examples)
    encoder = open_encoder(options.encoder, texts, options.seed, options.layers)
    form = InputForm(encoder.pad_id, min(options.most_tokens, encoder.most_tokens))
    run = _Run(encoder, form, examples, held_out(groups, options.seed), options)
    state = run.resumed(checkpoint)
    while state.epoch < options.epochs and state.epoch - state.best_epoch < options.patience:
        trained = run.train_epoch(state.epoch, on_share)
        judged = run.judge()
        if not math.isfinite(judged):
            raise ConfigError(
                f"the loss is {judged} after epoch {state.epoch + 1}; "
                f"train with a lower --learning-rate than {options.learning_rate:g}"
            )
        state.epoch += 1
        if judged < state.best_loss:
            state.best_loss, state.best_epoch = judged, state.epoch
            run.best = {
                name: tensor.detach().clone() for name, tensor in encoder.regressor.state_dict().items()
            }
        run.keep(checkpoint, state)
        on_epoch(Progress(state.epoch, options.epochs, trained, judged, state.best_loss))
    encoder.regressor.load_state_dict(run.best)
    form = msgspec.structs.replace(form, shifts=run.shifts())
    encoder.regressor.to("cpu").eval()
    return TrainedRoberta(encoder, form, state.epoch, state.best_epoch, state.best_loss)


class _Run:
    """A network, its optimizer and its examples."""

    def __init__(
        self,
        encoder: Encoder,
        form: InputForm,
        examples: Sequence[Example],
        kept_back: Any,
        options: RobertaOptions,
    ) -> None:
        self._options = options
        self._device = _device(options.device)
        self._mixed = _mixed(options.precision, self._device)
        self._encoding = PromptEncoding(encoder.tokenizer, form)
        self._rows = [self._encoding.ids(example.request) for example in examples]
        self._cut = cut_flags(examples)
        self._target = Lengths.as_seen(examples).log_tokens
        self._data = _digest(self._rows, self._target, self._cut)
        self._training, self._held_out = np.flatnonzero(~kept_back), np.flatnonzero(kept_back)
        self._bounds = self._cut & kept_back
        """Whose target is a bound; what is trained on has lengths that are drawn."""
        self._drawn = np.flatnonzero(self._cut & ~kept_back)
        self._beliefs = beliefs(examples, self._drawn, options.seed) if len(self._drawn) else []
        self._network = encoder.regressor.to(self._device)
        self._complete(0)
        self._network.centre.fill_(float(self._target[self._training].mean()))
        self._network.spread.fill_(max(float(self._target[self._training].std()), 1e-3))
        self._optimizer: Any = torch.optim.AdamW(self._network.parameters(), lr=options.learning_rate)
        self.best: dict[str, Any] = {}

    def train_epoch(self, epoch: int, on_share: Callable[[float], None]) -> float:
        """One pass over the training part; mean loss."""
        self._complete(epoch)
        torch.manual_seed(self._options.seed * 100_003 + epoch)
        self._network.train()
        batches = list(self._batches(self._training, np.random.default_rng([self._options.seed, epoch])))
        total = 0.0
        for number, rows in enumerate(batches):
            self._set_rate(epoch * len(batches) + number, self._options.epochs * len(batches))
            loss = self._loss(rows)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
            self._optimizer.step()
            total += float(loss.detach()) * len(rows)
            on_share(epoch + (number + 1) / len(batches))
        return total / len(self._training)

    def _complete(self, epoch: int) -> None:
        """Draw anew what cut responses that are trained on might have become."""
        levels = np.random.default_rng([self._options.seed, epoch, 1]).random((len(self._drawn), 1))
        for row, (length, bound), level in zip(self._drawn, self._beliefs, levels, strict=True):
            self._target[row] = math.log(length.totals(level, bound)[0])

    def judge(self) -> float:
        """Mean loss on what is held out."""
        self._network.eval()
        with torch.inference_mode():
            losses = [float(self._loss(rows)) * len(rows) for rows in self._batches(self._held_out, None)]
        return sum(losses) / len(self._held_out)

    def shifts(self) -> tuple[float, ...]:
        """What makes the quantiles cover the held-out part."""
        residuals = self._target[self._held_out][:, None] - self._said(self._held_out)
        return tuple(shifts_for(residuals, self._cut[self._held_out], LEVELS).tolist())

    def resumed(self, folder: Path | None) -> TrainingState:
        """The state to go on from; a new one if there is no checkpoint."""
        options = {name: value for name, value in asdict(self._options).items() if name not in _ELSEWHERE}
        fresh = TrainingState(options, self._data)
        state, self.best = take_up(folder, fresh, self._network, self._optimizer)
        return state

    def keep(self, folder: Path | None, state: TrainingState) -> None:
        """Leave a checkpoint."""
        keep(folder, state, self._network, self._optimizer, self.best)

    def _said(self, rows: Ints) -> Floats:
        """Log quantiles of these examples, shape (rows, levels)."""
        said = np.empty((len(self._rows), len(LEVELS)))
        self._network.eval()
        with torch.inference_mode():
            for batch in self._batches(rows, None):
                said[batch] = self._outputs(batch)[:, 1:].double().cpu().numpy()
        return said[rows]

    def _loss(self, rows: Ints) -> Any:
        """Pinball plus half of Huber, both in spreads of the target; nothing for what is beyond a bound."""
        target = torch.tensor(self._target[rows], dtype=torch.float32, device=self._device).unsqueeze(1)
        errors = (target - self._outputs(rows).float()) / self._network.spread
        if self._bounds[rows].any():
            bounds = torch.tensor(self._bounds[rows], device=self._device).unsqueeze(1)
            errors = torch.where(bounds, errors.clamp(min=0), errors)
        levels = torch.tensor(LEVELS, device=self._device)
        pinball = torch.maximum(levels * errors[:, 1:], (levels - 1) * errors[:, 1:]).mean()
        huber = torch.nn.functional.smooth_l1_loss(errors[:, 0], torch.zeros_like(errors[:, 0]))
        return pinball + 0.5 * huber

    def _outputs(self, rows: Ints) -> Any:
        ids, mask = self._encoding.padded([self._rows[row] for row in rows])
        moved = (torch.from_numpy(array).to(self._device) for array in (ids, mask))
        with torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._mixed):
            return self._network(*moved)

    def _batches(self, rows: Ints, random: np.random.Generator | None) -> Iterator[Ints]:
        """Of similar lengths, which saves padding; in random order if ``random`` is given."""
        order = rows if random is None else random.permutation(rows)
        pool = 16 * self._options.batch
        for start in range(0, len(order), pool):
            near = sorted(order[start : start + pool], key=lambda row: len(self._rows[row]))
            batches = [near[i : i + self._options.batch] for i in range(0, len(near), self._options.batch)]
            for i in range(len(batches)) if random is None else random.permutation(len(batches)):
                yield np.array(batches[i], dtype=np.intp)

    def _set_rate(self, step: int, steps: int) -> None:
        rising = (step + 1) / max(1.0, _WARM_UP * steps)
        falling = 1 - step / steps
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.learning_rate * min(1.0, rising, falling)


def _device(name: str) -> str:
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device = {name!r}: must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda': torch sees no GPU here; train with --device cpu")
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _mixed(precision: str, device: str) -> bool:
    if precision not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"precision = {precision!r}: must be auto, float32 or bfloat16")
    return precision == "bfloat16" or (precision == "auto" and device == "cuda")


def _digest(rows: Sequence[Sequence[int]], target: Floats, cut: npt.NDArray[np.bool_]) -> str:
    """Of token ids and lengths."""
    digest = sha256(target.tobytes() + cut.tobytes())
    for row in rows:
        digest.update(np.array([len(row), *row], dtype=np.int64).tobytes())
    return digest.hexdigest()[:16]

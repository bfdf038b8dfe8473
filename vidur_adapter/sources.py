"""The registry: GPU, model and source -> operator model. Where a source lacks a part, another fills it.

Sources lie in one data folder: ``profiles/llmservingsim``, ``profiles/vidur``, ``profiles/aiconfigurator``,
each laid out as its reader says. GPUs and models go by the names of ``config/gpus`` and ``config/models``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from block.config import load_config
from block.errors import ConfigError, PackError
from block.latency.dimensions import ModelDimensions
from block.latency.roofline import Gpu
from vidur_adapter.aiconfigurator import KernelTables
from vidur_adapter.assumed import RooflineProduct
from vidur_adapter.attention import SplitAttention
from vidur_adapter.estimators import Make, estimator
from vidur_adapter.llmservingsim import LayerProfile
from vidur_adapter.model import Constants, OperatorModel, Part
from vidur_adapter.vidur_profiles import VidurProfiles

SYSTEMS: Mapping[str, str] = {
    "a100-80-sxm": "a100_sxm",
    "h100-sxm": "h100_sxm",
    "h200": "h200_sxm",
    "l40s": "l40s",
}
"""aiconfigurator's folders by our names."""
LAYER_FOLDERS: Mapping[str, str] = {"rtx-pro-6000": "RTXPRO6000", "rtx-4090": "RTX4090"}
"""LLMServingSim's."""
COMPUTE_FOLDERS: Mapping[str, str] = {
    "a100-80-sxm": "a100",
    "a100-40-sxm": "a100",
    "h100-sxm": "h100",
    "a40": "a40",
    "a30": "a30",
}
"""Vidur's."""
FABRICS: Mapping[str, str] = {"a100": "a100_dgx", "h100": "h100_dgx"}


@dataclass(frozen=True)
class Choice:
    """What is asked of the registry."""

    gpu: str
    model: str
    profiles: Path
    """The folder that holds the sources."""
    config: Path
    """The folder that holds ``gpus`` and ``models``."""
    devices: int = 1
    """Over which tensors are spread."""
    stages: int = 1
    """Of a pipeline, each of as many devices."""
    estimator: str = "grid"
    constants: Constants = field(default_factory=Constants)
    captured_tokens: int = 256

    @property
    def dimensions(self) -> ModelDimensions:
        """Raises ConfigError that lists the known models."""
        models = self.config / "models"
        if not (models / self.model / "config.json").is_file():
            known = ", ".join(sorted(path.parent.name for path in models.glob("*/config.json")))
            raise ConfigError(
                f"model {self.model!r}: unknown; known are {known}; others need {models}/NAME/config.json"
            )
        return ModelDimensions.load(models / self.model / "config.json")

    @property
    def datasheet(self) -> Gpu:
        """Raises ConfigError."""
        return load_config(self.config / "gpus" / f"{self.gpu}.yaml", Gpu)

    @property
    def name(self) -> str:
        """For versions and titles."""
        spread = f"-tp{self.devices}" if self.devices > 1 else ""
        return f"{self.gpu}-{self.model}{spread}" + (f"-pp{self.stages}" if self.stages > 1 else "")

    def folder(self, folders: Mapping[str, str], source: str) -> str:
        """A source's name of the GPU; raises PackError that lists those it has."""
        if self.gpu not in folders:
            raise PackError(f"{source} has no GPU {self.gpu}; has {', '.join(folders)}")
        return folders[self.gpu]


def from_llmservingsim(choice: Choice) -> OperatorModel:
    """Everything measured inside vLLM, for one GPU and one model."""
    _refuse_stages(choice, "llmservingsim")
    root = choice.profiles / "llmservingsim" / choice.folder(LAYER_FOLDERS, "llmservingsim")
    folder = next((path for path in sorted(root.glob("*")) if path.name.lower() == choice.model), None)
    if folder is None:
        known = ", ".join(path.name.lower() for path in sorted(root.glob("*"))) or "nothing"
        raise PackError(f"{root}: no profile of {choice.model}; has {known}")
    dimensions = choice.dimensions
    return LayerProfile(
        folder,
        dimensions.layers,
        dimensions.hidden,
        choice.devices,
        constants=choice.constants,
        captured_tokens=choice.captured_tokens,
        make=estimator(choice.estimator),
    ).model()


def from_aiconfigurator(choice: Choice) -> OperatorModel:
    """Kernels of any model; small ones and the output layer from the datasheet."""
    _refuse_stages(choice, "aiconfigurator")
    system = choice.profiles / "aiconfigurator" / choice.folder(SYSTEMS, "aiconfigurator")
    make = estimator(choice.estimator)
    tables = KernelTables(system, choice.dimensions, choice.devices, make=make)
    return tables.build(f"{choice.name}-aiconfigurator", choice.constants, choice.captured_tokens)


def from_vidur(choice: Choice) -> OperatorModel:
    """Linear layers and norms; attention from the same profile, or from aiconfigurator where it has none."""
    gpu, dimensions = choice.folder(COMPUTE_FOLDERS, "vidur"), choice.dimensions
    make = estimator(choice.estimator)
    profiles = VidurProfiles(choice.profiles / "vidur", make)
    folder = profiles.compute_folder(gpu, _vidur_name(profiles, gpu, choice.model))
    vocabulary = dimensions.vocabulary / choice.devices
    head = RooflineProduct("lm_head", choice.datasheet, dimensions.hidden, vocabulary)
    attention, note = _vidur_attention(choice, profiles, folder, make)
    return OperatorModel(
        name=f"{choice.name}-vidur",
        parts=(
            *profiles.linear_parts(folder, dimensions.layers, choice.devices),
            Part(head, "requests", 1, "assumed", "datasheet"),
            *_collectives(choice, profiles, gpu),
        ),
        attention=attention,
        layers=dimensions.layers,
        attention_note=note,
        most_tokens=profiles.most_tokens(folder),
        constants=choice.constants,
        captured_tokens=choice.captured_tokens,
    )


SOURCES: Mapping[str, Callable[[Choice], OperatorModel]] = {
    "llmservingsim": from_llmservingsim,
    "vidur": from_vidur,
    "aiconfigurator": from_aiconfigurator,
}
"""Best first."""


def operator_model(choice: Choice, source: str = "") -> OperatorModel:
    """From the named source, or the first that has the GPU and the model.

    Raises ConfigError for an unknown source, and PackError that says why each source has not.
    """
    if source and source not in SOURCES:
        raise ConfigError(f"source {source!r}: unknown; known are {', '.join(SOURCES)}")
    reasons = []
    for name in (source,) if source else SOURCES:
        try:
            return SOURCES[name](choice)
        except PackError as error:
            reasons.append(str(error))
    raise PackError(f"no operators of {choice.model} on {choice.gpu}: " + "; ".join(reasons))


def _vidur_attention(
    choice: Choice, profiles: VidurProfiles, folder: Path, make: Make
) -> tuple[SplitAttention, str]:
    """And where it is from."""
    found = profiles.attention(folder, choice.devices)
    if found is not None:
        return found, f"{folder.name}/attention.csv: prompts and decodes apart, no unevenness"
    place = choice.folder(SYSTEMS, "vidur's folder has no attention and aiconfigurator")
    tables = KernelTables(
        choice.profiles / "aiconfigurator" / place, choice.dimensions, choice.devices, make=make
    )
    return tables.attention(), "aiconfigurator: prompts and decodes apart, no unevenness"


def _collectives(choice: Choice, profiles: VidurProfiles, gpu: str) -> list[Part]:
    """All-reduce twice a layer, and a transfer between stages."""
    found, fabric = [], FABRICS.get(gpu, gpu)
    bytes_per_token = 2.0 * choice.dimensions.hidden
    if choice.devices > 1:
        reduce = profiles.collective(fabric, "all_reduce", choice.devices)
        times = 2 * choice.dimensions.layers
        found.append(Part(reduce, "tokens", times, "measured", fabric, per_unit=bytes_per_token))
    if choice.stages > 1:
        send = profiles.collective(fabric, "send_recv", 2)
        found.append(Part(send, "tokens", choice.stages - 1, "measured", fabric, per_unit=bytes_per_token))
    return found


def _refuse_stages(choice: Choice, source: str) -> None:
    if choice.stages > 1:
        raise PackError(f"{source} has no transfers between stages of a pipeline")


def _vidur_name(profiles: VidurProfiles, gpu: str, model: str) -> str:
    """A folder of that GPU whose name, reduced to letters and digits, begins or ends as ours does."""
    wanted = _letters(model)
    for place, name in profiles.models():
        if place == gpu and wanted in (
            _letters(name),
            _letters(name.removesuffix("-hf").removeprefix("Meta-")),
        ):
            return name
    return model


def _letters(name: str) -> str:
    return "".join(each for each in name.lower() if each.isalnum())

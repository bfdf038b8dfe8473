"""LLMServingSim's layer profiles, taken inside vLLM: one folder per GPU and model.

    meta.yaml                 grid and engine settings; the model's name
    tp<N>/dense.csv           layer, tokens, time_us
    tp<N>/per_sequence.csv    layer, sequences, time_us
    tp<N>/attention.csv       prefill_chunk, kv_prefill, n_decode, kv_decode, time_us: one layer, mixed batch
    tp<N>/skew_fit.csv        what unequal contexts cost (optional)
    tp1/moe.csv               tokens, activated_experts, time_us: one layer (mixtures of experts only)

Device times of one layer each. Not in it: collectives, and the engine's own work between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from block.errors import PackError
from vidur_adapter.assumed import LinkAllReduce
from vidur_adapter.attention import MixedAttention
from vidur_adapter.experts import ExpertLayer, Experts
from vidur_adapter.grid import Grid
from vidur_adapter.model import Basis, Constants, OperatorModel, Part
from vidur_adapter.operator import Operator, Samples
from vidur_adapter.skew import SkewTable
from vidur_adapter.table_file import TableFile

_ONCE = ("embedding", "final_layernorm", "lm_head", "sampler")
_TWICE_PER_LAYER = ("layernorm",)
# Slices by chunk and decodes first: within each, contexts form a grid of their own.
_ATTENTION_AXES = ("prefill_chunk", "n_decode", "kv_prefill", "kv_decode")


@dataclass(frozen=True, slots=True)
class Link:
    """What joins the devices, where no all-reduce was measured."""

    gb_s: float
    latency_s: float


@dataclass(frozen=True)
class LayerProfile:
    """One folder, and how the model is spread over devices."""

    folder: Path
    layers: int
    hidden: int
    tensor_parallel: int = 1
    link: Link | None = None
    experts: Experts | None = None
    constants: Constants = field(default_factory=Constants)
    captured_tokens: int = 0
    make: Callable[[Samples], Operator] = Grid

    def model(self) -> OperatorModel:
        """Read all tables; raises PackError that names the file and what is wrong with it."""
        parts = [
            *self._parts("dense", "tokens", "tokens"),
            *self._parts("per_sequence", "sequences", "requests"),
        ]
        parts += [*self._expert_part(), *self._collectives()]
        return OperatorModel(
            name=f"{'-'.join(self.folder.parts[-2:])}-tp{self.tensor_parallel}",
            parts=tuple(parts),
            attention=self._attention(),
            layers=self.layers,
            attention_note=f"{self._tables.name}/attention.csv",
            most_tokens=int(TableFile.load(self._tables / "dense.csv").numbers("tokens").max()),
            constants=self.constants,
            captured_tokens=self.captured_tokens,
        )

    @property
    def _tables(self) -> Path:
        folder = self.folder / f"tp{self.tensor_parallel}"
        if not folder.is_dir():
            known = ", ".join(sorted(path.name for path in self.folder.glob("tp*"))) or "none"
            raise PackError(f"{folder}: no such profile; {self.folder} has {known}")
        return folder

    def _parts(self, file: str, axis: str, basis: Basis) -> Iterator[Part]:
        path = self._tables / f"{file}.csv"
        table = TableFile.load(path, ("layer", axis, "time_us"))
        names = np.array(table.texts("layer"))
        counts, seconds = table.numbers(axis), table.numbers("time_us") / 1e6
        for name in sorted(set(names.tolist())):
            rows = names == name
            operator = self.make(Samples.of(name, (axis,), (counts[rows],), seconds[rows]))
            yield Part(operator, basis, self._times(name), "measured", f"{path.parent.name}/{path.name}")

    def _times(self, name: str) -> int:
        if name in _ONCE:
            return 1
        return self.layers * (2 if name in _TWICE_PER_LAYER else 1)

    def _attention(self) -> MixedAttention:
        table = TableFile.load(self._tables / "attention.csv", (*_ATTENTION_AXES, "time_us"))
        columns = tuple(table.numbers(axis) for axis in _ATTENTION_AXES)
        samples = Samples.of("attention", _ATTENTION_AXES, columns, table.numbers("time_us") / 1e6)
        return MixedAttention(self.make(samples), self._skew())

    def _skew(self) -> SkewTable | None:
        """None where the profile has no such table, or says in meta.yaml that it was not measured."""
        path = self._tables / "skew_fit.csv"
        try:
            meta = yaml.safe_load((self.folder / "meta.yaml").read_text(encoding="utf-8"))
            measured = meta.get("skew_fit", {}).get("enabled", True)
        except (OSError, yaml.YAMLError, AttributeError) as error:
            raise PackError(
                f"{self.folder / 'meta.yaml'}: cannot be read ({error}); check the path"
            ) from error
        return SkewTable.load(path) if measured and path.is_file() else None

    def _expert_part(self) -> Iterator[Part]:
        if self.experts is None:
            return
        path = self.folder / "tp1" / "moe.csv"
        table = TableFile.load(path, ("tokens", "activated_experts", "time_us"))
        columns = (table.numbers("activated_experts"), table.numbers("tokens"))
        samples = Samples.of("moe", ("activated_experts", "tokens"), columns, table.numbers("time_us") / 1e6)
        layer = ExpertLayer(self.make(samples), self.experts)
        yield Part(layer, "shared", self.layers, "measured", "tp1/moe.csv")

    def _collectives(self) -> Iterator[Part]:
        """Sums over the devices twice a layer; tokens to the experts' devices and back."""
        exchanges = (
            (self.tensor_parallel, "all_reduce"),
            (self.experts.devices if self.experts else 1, "experts"),
        )
        for devices, name in exchanges:
            if devices == 1:
                continue
            if self.link is None:
                raise PackError(
                    f"{self.folder}: has no times of collectives, and {devices} devices need them; name the "
                    "link's bandwidth and latency"
                )
            operator = LinkAllReduce(devices, self.link.gb_s, self.link.latency_s, name)
            note = f"link of {self.link.gb_s:g} GB/s, {self.link.latency_s * 1e6:g} us"
            basis: Basis = "shared" if name == "experts" else "tokens"
            yield Part(operator, basis, 2 * self.layers, "assumed", note, per_unit=2.0 * self.hidden)

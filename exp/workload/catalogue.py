"""Where workloads come from, by name, and where their files are looked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from block.errors import ConfigError
from exp.workload.azure import read_azure
from exp.workload.burstgpt import read_burstgpt
from exp.workload.generated import generated, generated_burstgpt, generated_mix
from exp.workload.lengths_csv import read_lengths
from exp.workload.mooncake import read_mooncake
from exp.workload.request import Workload
from exp.workload.sharegpt import read_sharegpt
from exp.workload.spec import WorkloadSpec
from exp.workload.trace import Trace
from exp.workload.trace_file import missing

FETCHED = Path(".cache/data")
"""Where ``block-exp data fetch`` puts files, laid out as the data folder is."""


@dataclass(frozen=True, slots=True)
class Source:
    """A kind of trace: its reader, and the file that is meant when none is named."""

    title: str
    read: Callable[[Path, WorkloadSpec], Trace]
    file: Path | None = None

    def path(self, name: str, file: str, data: Path) -> Path:
        """Of the file, or of the one meant."""
        if file:
            return Path(file)
        if self.file is None:
            raise ConfigError(f"workload {name!r}: needs a file; write {name}:PATH")
        return _found(self.file, data)


SOURCES: Mapping[str, Source] = {
    "sharegpt": Source("ShareGPT lengths", read_lengths, Path("vidur_traces/sharegpt_val_10k_llama2.csv")),
    "sharegpt-text": Source(
        "ShareGPT conversations", read_sharegpt, Path("sharegpt/ShareGPT_V3_unfiltered_cleaned_split.json")
    ),
    "burstgpt": Source("BurstGPT", read_burstgpt, Path("burstgpt/BurstGPT_1.csv")),
    "arxiv": Source(
        "arXiv summarisation lengths", read_lengths, Path("vidur_traces/arxiv_summarization_llama2.csv")
    ),
    "azure": Source(
        "Azure 2023 conversation trace", read_azure, Path("azure_llm_2023/AzureLLMInferenceTrace_conv.csv")
    ),
    "azure-code": Source(
        "Azure 2023 code trace", read_azure, Path("azure_llm_2023/AzureLLMInferenceTrace_code.csv")
    ),
    "mooncake": Source(
        "Mooncake conversation trace", read_mooncake, Path("mooncake_fast25/conversation_trace.jsonl")
    ),
    "mooncake-synthetic": Source(
        "Mooncake synthetic trace", read_mooncake, Path("mooncake_fast25/synthetic_trace.jsonl")
    ),
    "lengths": Source("lengths", read_lengths),
}
"""Name -> recorded trace; ``name:PATH`` reads another file of that kind."""

GENERATORS: Mapping[str, Callable[[WorkloadSpec], Workload]] = {
    "generated": generated,
    "generated-burstgpt": generated_burstgpt,
    "generated-mix": generated_mix,
}


def load_workload(name: str, spec: WorkloadSpec) -> Workload:
    """A workload by name; ``auto`` takes ShareGPT's lengths if they are at hand, else generates.

    Raises ConfigError for an unknown name, or a trace that is absent, damaged or too short.
    """
    found = recorded_trace(name, spec)
    if found is not None:
        title, trace = found
        return Workload(f"{title} ({trace.file.name})", trace.arranged(spec))
    return GENERATORS["generated" if name == "auto" else name](spec)


def recorded_trace(name: str, spec: WorkloadSpec) -> tuple[str, Trace] | None:
    """The trace that a workload is taken from, with its title; None for one that is generated.

    A name that ends in ``.csv`` is a file of lengths. Raises ConfigError as ``load_workload`` does.
    """
    found = _source(name, spec.data)
    if found is None:
        return None
    source, file = found
    return source.title, source.read(file, spec)


def trace_file(name: str, data: Path) -> Path | None:
    """The file that a workload is read from; None for one that is generated.

    Raises ConfigError for an unknown name, or a file of the data folder that is absent.
    """
    found = _source(name, data)
    return None if found is None else found[1]


def _source(name: str, data: Path) -> tuple[Source, Path] | None:
    if name == "auto":
        name = "sharegpt" if has("sharegpt", data) else "generated"
    kind, _, file = name.partition(":")
    if kind in SOURCES:
        return SOURCES[kind], SOURCES[kind].path(kind, file, data)
    if name in GENERATORS:
        return None
    if name.lower().endswith(".csv"):
        return SOURCES["lengths"], Path(name)
    raise ConfigError(
        f"workload {name!r}: unknown; known here: auto, {', '.join((*SOURCES, *GENERATORS))}, MY.csv with "
        "lengths, and NAME:PATH for a trace of one's own"
    )


def has(name: str, data: Path) -> bool:
    """Whether a source's file is at hand."""
    file = SOURCES[name].file
    return file is not None and any((folder / file).is_file() for folder in (data, FETCHED))


def _found(file: Path, data: Path) -> Path:
    for folder in (data, FETCHED):
        if (folder / file).is_file():
            return folder / file
    raise missing(data / file, "not there")

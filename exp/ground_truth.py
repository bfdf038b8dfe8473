"""``block-exp ground-truth``: a recorded run of a real vLLM, simulated anew from its GPU's profile."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console

from block.errors import ConfigError
from exp.cli import main

if TYPE_CHECKING:
    from exp.ground_truth_run import GroundTruth
    from exp.recorded_run import RecordedRun
    from vidur_adapter.llmservingsim import LayerProfile

MODELS = Path(__file__).resolve().parent.parent / "config" / "models"
_LARGEST_GRAPH = 512

Profile = Annotated[Path, typer.Option(help="Layer profile of the GPU and model (meta.yaml, tp1/...).")]
Run = Annotated[Path, typer.Option(help="Recorded run (meta.json, requests.jsonl).")]
Workload = Annotated[Path | None, typer.Option(help="With the token ids sent, to follow the prefix cache.")]
ModelConfig = Annotated[
    Path | None, typer.Option(help="The model's config.json; by its name in config/models if not given.")
]
Blocks = Annotated[
    int | None, typer.Option(min=2, help="KV blocks, where meta.json has none; else memory never binds.")
]
Fit = Annotated[
    bool,
    typer.Option(
        help="Fit two constants to each half too: some 20 simulations more, 5 s per 50,000 steps each."
    ),
]
Plot = Annotated[Path | None, typer.Option(help="Draw it into this PNG or SVG file.")]

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: block-exp ground-truth --profile PROFILES/RTXPRO6000/Llama-3.1-8B --run RUN")
def ground_truth(
    profile: Profile,
    run: Run,
    workload: Workload = None,
    model_config: ModelConfig = None,
    num_gpu_blocks: Blocks = None,
    fit: Fit = True,
    plot: Plot = None,
) -> None:
    """Simulate the recorded arrivals from the profile and compare queueing, TTFT, TPOT and E2E.

    The last line is JSON: signed fractions, of the simulation in which nothing was fitted to the run.
    """
    from exp.figure_file import check_figure
    from exp.ground_truth_report import GroundTruthReport

    if plot is not None:
        check_figure(plot)
    truth = truth_of(profile, run, workload, model_config, num_gpu_blocks)
    console, report = Console(), GroundTruthReport(truth)
    with console.status("simulating"):
        variants = truth.variants(fit=fit)
        first = next(variants)
        console.print(report.summary_line(first), highlight=False)
        for variant in chain([first], variants):
            console.print(report.table(variant))
    if plot is not None:
        report.plot(first, plot)
    print(json.dumps(first.errors.summary()), flush=True)


def truth_of(
    profile: Path,
    run: Path,
    workload: Path | None = None,
    model_config: Path | None = None,
    blocks: int | None = None,
) -> GroundTruth:
    """Read profile and run; raises ConfigError or PackError that names file and remedy."""
    from exp.ground_truth_run import GroundTruth
    from exp.recorded_run import RecordedRun

    recorded = RecordedRun.load(run)
    flags = recorded.meta.engine_kwargs
    profiled = _model_of(profile)
    if model_config is None:
        _refuse_another_model(profiled, recorded.meta.model)
    sizes = _model_sizes(model_config or MODELS / profiled.lower() / "config.json")
    layers = _layers(profile, sizes, recorded)
    engines = flags.data_parallel_size
    limits = recorded.limits(blocks)
    if workload is None:
        limits = replace(limits, prefix_caching=False)
    return GroundTruth(
        recorded,
        layers.model(),
        limits,
        tuple(recorded.arrivals(workload)),
        engines,
        lockstep=engines > 1 and layers.experts is not None,
    )


def _layers(profile: Path, sizes: dict[str, int], recorded: RecordedRun) -> LayerProfile:
    """The profile of a model of these sizes, spread as the run's engine spread it."""
    from vidur_adapter.experts import Experts
    from vidur_adapter.llmservingsim import LayerProfile

    flags = recorded.meta.engine_kwargs
    engines, experts = flags.data_parallel_size, None
    if "num_experts" in sizes:
        experts = Experts(sizes["num_experts"], sizes["num_experts_per_tok"], engines, engines)
    return LayerProfile(
        profile,
        sizes["num_hidden_layers"],
        sizes["hidden_size"],
        flags.tensor_parallel_size,
        recorded.link,
        experts,
        captured_tokens=0 if flags.enforce_eager else min(2 * flags.max_num_seqs, _LARGEST_GRAPH),
    )


def _model_of(profile: Path) -> str:
    """As the profile's own description names it, without its owner."""
    path = profile / "meta.yaml"
    try:
        name = str(yaml.safe_load(path.read_text(encoding="utf-8"))["model"])
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a profile's folder") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: names no model ({error!r}); add a line such as model: Llama-3.1-8B"
        ) from error
    return name.rpartition("/")[2]


def _refuse_another_model(profiled: str, served: str) -> None:
    """Variants of one model, such as -Instruct, have the same sizes and longer names."""
    names = sorted((profiled.lower(), served.rpartition("/")[2].lower()), key=len)
    if not names[1].startswith(names[0]):
        raise ConfigError(
            f"--profile is of {profiled}, --run of {served}: their step times differ; name the profile of "
            "the run's model, or --model-config where two names mean the same"
        )


def _model_sizes(path: Path) -> dict[str, int]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        names = ("num_hidden_layers", "hidden_size", "num_experts", "num_experts_per_tok")
        sizes = {name: int(raw[name]) for name in names if name in raw}
        wrong = next((name for name, size in sizes.items() if size < 1), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: no model's config.json ({error}); name --model-config") from error
    if wrong is not None:
        raise ConfigError(f"{path}: {wrong} = {sizes[wrong]}: must be at least 1")
    needed = {
        "num_hidden_layers",
        "hidden_size",
        *(("num_experts_per_tok",) if "num_experts" in sizes else ()),
    }
    missing = needed - set(sizes)
    if missing:
        raise ConfigError(f"{path}: lacks {', '.join(sorted(missing))}; name the model's own config.json")
    return sizes


if __name__ == "__main__":
    main(["ground-truth", *sys.argv[1:]])

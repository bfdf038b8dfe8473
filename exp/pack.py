"""``block-exp pack``: look at step packs, and make them from journals, foreign profiles and datasheets."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from exp.cli import main

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    epilog="Example: block-exp pack inspect config/packs/a30-llama-2-7b.npz",
)

Out = Annotated[Path, typer.Option("--out", help="The pack to write.")]
CONFIG = Path(__file__).resolve().parent.parent / "config"


@app.callback()
def pack() -> None:
    """Step packs: what an engine's batches took."""


@app.command(epilog="Example: block-exp pack inspect run/engine-0.npz --plot run/engine-0.png")
def inspect(
    file: Annotated[Path, typer.Argument(help="A pack.")],
    plot: Annotated[Path | None, typer.Option(help="Draw it into this PNG or SVG file.")] = None,
) -> None:
    """Print what a pack holds and how well its oracle fits; the last line is JSON."""
    from block.latency.pack import load_pack
    from exp.figure_file import check_figure
    from exp.pack_report import PackReport

    if plot is not None:
        check_figure(plot)
    report = PackReport.of(load_pack(file))
    console = Console()
    console.print(report.header_table())
    console.print(report.column_table())
    if plot is not None:
        report.plot(plot)
    print(json.dumps(report.summary()), flush=True)


@app.command("from-journal", epilog="Example: block-exp pack from-journal run/e.journal --out run/e.npz")
def from_journal(
    journal: Annotated[Path, typer.Argument(help="What a recording executor wrote.")],
    out: Out,
    notes: Annotated[str, typer.Option(help="A remark for the header.")] = "",
) -> None:
    """Make a pack from a recording, finished or not."""
    from block.latency.journal import pack_from_journal
    from block.latency.pack import save_pack

    made = pack_from_journal(journal, notes)
    save_pack(out, made)
    print(f"{out}: {len(made)} steps, {out.stat().st_size:,} bytes")


@app.command("import-llm-emu", epilog="Example: block-exp pack import-llm-emu A40.json --out a40.npz")
def import_profile(
    profile: Annotated[Path, typer.Argument(help="An LLM-Emu profile pack, JSON version 2.0.")], out: Out
) -> None:
    """Make a pack from a profile of LLM-Emu's."""
    from block.latency.llm_emu import import_llm_emu
    from block.latency.pack import save_pack

    made = import_llm_emu(profile, _now())
    save_pack(out, made)
    print(f"{out}: {len(made)} steps, {out.stat().st_size:,} bytes; {made.header.notes}")


@app.command(epilog="Example: block-exp pack model --gpu a30 --model llama-2-7b --out a30-llama-2-7b.npz")
def model(
    gpu: Annotated[str, typer.Option(help="A file of config/gpus, by name.")],
    model_name: Annotated[str, typer.Option("--model", help="A folder of config/models, by name.")],
    out: Out,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Most requests in one batch.")] = 256,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="Token budget of one step.")] = 2048,
    max_model_len: Annotated[int, typer.Option(min=1, help="Most tokens of one request.")] = 4096,
    created_at: Annotated[str, typer.Option(help="Date for the header; now if not given.")] = "",
) -> None:
    """Work a pack out from a GPU's datasheet and a model's dimensions; it is marked as modelled."""
    from block.config import load_config
    from block.latency.dimensions import ModelDimensions
    from block.latency.modelled_pack import modelled_pack
    from block.latency.pack import save_pack
    from block.latency.roofline import Efficiency, Gpu, Roofline, RooflineLatency
    from block.types import EngineLimits

    gpu_file, model_file = CONFIG / "gpus" / f"{gpu}.yaml", CONFIG / "models" / model_name / "config.json"
    roofline = Roofline(
        kind="roofline",
        gpu=gpu_file,
        model=model_file,
        weight_bytes=2.0,
        cache_bytes=2.0,
        efficiency=Efficiency.model_validate({}),
    )
    latency = RooflineLatency(
        f"{gpu}-{model_name}", load_config(gpu_file, Gpu), ModelDimensions.load(model_file), roofline
    )
    limits = EngineLimits(16, 0, max_num_seqs, max_num_batched_tokens, max_model_len, async_scheduling=True)
    made = modelled_pack(latency, limits, model_name, created_at or _now())
    save_pack(out, made)
    print(f"{out}: {len(made)} steps, {out.stat().st_size:,} bytes; {made.header.kv_blocks} KV blocks")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    main(["pack", *sys.argv[1:]])

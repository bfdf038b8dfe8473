"""``block-exp record``: a sweep of loads against a recording engine, and a pack of what it took.

Safe to interrupt: the same command goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from block.errors import ConfigError, InstanceError
from deploy.launch import run_until_signalled
from exp.bench_serve import first_model
from exp.cli import main
from exp.free_port import free_port
from exp.host_overheads import HostOverheads
from exp.local_model import CONFIG_ROOT, make_local_model
from exp.prompt import PromptWriter
from exp.recording import Recording
from exp.sweep import Sweep
from exp.target import Target
from exp.time_left import TimeLeft
from exp.trial_engine import TrialEngine
from exp.trial_server import TrialServer, running

START_S = 30.0
"""What a server takes to start; only the time left is told by it."""
MODELS = Path(".cache") / "models"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(
    epilog="Example: block-exp record --model deep-llama --out deep.npz; or "
    "block-exp record --model /models/llama --port 8000 --folder run/record/llama --out llama.npz"
)
def record(
    out: Annotated[Path, typer.Option(help="Where the pack goes; host overheads go beside it.")],
    model: Annotated[str, typer.Option(help="A folder of config/models, or a path to a model folder.")],
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes of load, after the bursts.")] = 4.0,
    folder: Annotated[Path | None, typer.Option(help="Journal and logs; default run/record/MODEL.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of lengths and arrivals.")] = 0,
    data: Annotated[Path, typer.Option(help="The optional data folder.")] = Path("../shared/data"),
    port: Annotated[
        int | None,
        typer.Option(
            help="Of a server of yours on this machine, with a recording executor and the journal"
            " FOLDER/steps.journal; its limits are taken from there."
        ),
    ] = None,
    max_model_len: Annotated[int, typer.Option(min=64, help="vLLM's.")] = 1024,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="vLLM's.")] = 16,
    max_num_batched_tokens: Annotated[int, typer.Option(min=16, help="vLLM's.")] = 256,
    num_gpu_blocks: Annotated[int, typer.Option(min=2, help="vLLM's, of 32 tokens each.")] = 129,
) -> None:
    """Record what one engine's steps take, under loads from idle to full, long prompts and deep contexts.

    Starts vLLM on this machine's CPU with its real forward pass on one core, or drives a server of
    yours. Interrupted, the same command goes on where it stopped. The last line is JSON.
    """
    path = _model_folder(model)
    engine = TrialEngine(path, max_model_len, max_num_seqs, max_num_batched_tokens, 32, num_gpu_blocks)
    place = (folder or Path("run") / "record" / path.name).resolve()
    sweep = Sweep(60.0 * minutes, seed, max_num_seqs=max_num_seqs)
    recording = Recording(place, sweep, max_model_len, data)
    if run_until_signalled(_recorded(recording, engine, port)) is None:
        print(f"interrupted; the same command goes on from {place}", file=sys.stderr)
        raise typer.Exit(130)
    pack, overheads = recording.finish(out)
    print(json.dumps(_summary(out, len(pack), overheads)), flush=True)


async def _recorded(recording: Recording, engine: TrialEngine, port: int | None) -> bool:
    writer = PromptWriter(engine.model / "tokenizer.json")
    started_s = 0.0 if port is not None else START_S
    with TimeLeft(Console(stderr=True), started_s + recording.left_s) as progress:
        if port is not None:
            model = await _served(port)
            await recording.of_its_engine().run(TrialServer(port, model, writer), progress)
            return True
        recording.begin()
        settings = {"record": {"journal": str(recording.journal)}}
        plan = engine.plan("recording", free_port(), recording.folder / "engine.log", settings)
        async with running(
            plan, engine.served_name, writer, progress.part("starting vLLM", START_S)
        ) as server:
            await recording.run(server, progress)
    return True


async def _served(port: int) -> str:
    """What the server there calls its model."""
    try:
        return await first_model(Target("127.0.0.1", port, ""))
    except InstanceError as error:
        raise InstanceError(f"--port {port}: no server answers there; start it first ({error})") from error


def _model_folder(model: str) -> Path:
    if (CONFIG_ROOT / model / "config.json").is_file():
        return make_local_model(model, (MODELS / model).resolve())
    path = Path(model).resolve()
    if not (path / "tokenizer.json").is_file():
        known = ", ".join(sorted(each.parent.name for each in CONFIG_ROOT.glob("*/config.json")))
        raise ConfigError(f"--model {model}: neither a model folder with a tokenizer.json nor one of {known}")
    return path


def _summary(out: Path, steps: int, overheads: HostOverheads) -> dict[str, Any]:
    return {
        "pack": str(out),
        "steps": steps,
        "host": {name: round(getattr(overheads, name), 7) for name in overheads.__struct_fields__},
    }


if __name__ == "__main__":
    main(["record", *sys.argv[1:]])

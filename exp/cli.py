"""``block-exp``: the experiments, one subcommand each, imported only when asked for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from block.errors import BlockError


@dataclass(frozen=True, slots=True)
class Experiment:
    """A subcommand: the module that has it as ``app`` (a typer application), and what it does."""

    module: str
    summary: str


EXPERIMENTS: Mapping[str, Experiment] = {
    "demo": Experiment("exp.demo", "A local cluster, real traffic under two policies, a report."),
    "simulate": Experiment("exp.simulate", "Arrivals on one simulated engine, every step written down."),
    "cluster": Experiment("exp.cluster.command", "A whole cluster in virtual time under one policy."),
    "cluster-check": Experiment(
        "exp.cluster.agreement_command", "The simulated cluster beside vLLM servers."
    ),
    "study": Experiment("exp.cluster.study_command", "Variants of a simulated cluster over several seeds."),
    "fidelity": Experiment("exp.fidelity", "The simulation against vLLM's own scheduler, step by step."),
    "prediction": Experiment("exp.prediction", "How right predictions are on real vLLM servers, by load."),
    "record": Experiment("exp.record", "A load sweep against a real engine; its step times as a pack."),
    "emulation-check": Experiment("exp.emulation_check", "How true emulation is to a real engine."),
    "virtual": Experiment("exp.virtual", "A pack and a workload through vLLM's scheduler in virtual time."),
    "pack": Experiment("exp.pack", "Step packs: look at them, make them."),
    "ground-truth": Experiment("exp.ground_truth", "Recorded runs of real GPUs, simulated from profiles."),
    "latency": Experiment("exp.latency", "Step times from operator profiles: look at them, judge them."),
    "vidur": Experiment("exp.vidur", "The same arrivals through Vidur's scheduler and ours."),
    "bench": Experiment(
        "exp.bench", "How fast and firm: what-if, router, failures, instances, copies, cluster, serve."
    ),
    "data": Experiment("exp.data", "Public traces: fetch them, see which are at hand."),
    "capacity": Experiment("exp.capacity", "How many instances a trace needs, and under which policy."),
    "provision": Experiment(
        "exp.provisioning.command", "Strategies of provisioning: GPU-hours against SLO misses."
    ),
    "run": Experiment("exp.run", "An experiment by its spec: runs, resumes, results in a folder."),
    "results": Experiment("exp.results", "The page of results, made from the folders of runs."),
}


def main(arguments: list[str] | None = None) -> None:
    """Run a subcommand; an error of ours is one line and exit status 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        raise SystemExit(0 if arguments else 2)
    name, *rest = arguments
    if name not in EXPERIMENTS:
        print(f"block-exp: {name}: unknown; known here: {', '.join(EXPERIMENTS)}", file=sys.stderr)
        raise SystemExit(2)
    try:
        import_module(EXPERIMENTS[name].module).app(rest, prog_name=f"block-exp {name}")
    except BlockError as error:
        print(f"block-exp: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def _help() -> str:
    width = max(map(len, EXPERIMENTS))
    lines = [f"  {name:{width}}  {experiment.summary}" for name, experiment in EXPERIMENTS.items()]
    return "\n".join(
        ["Usage: block-exp EXPERIMENT [OPTIONS]", "", *lines, "", "Example: block-exp demo --instances 4"]
    )


if __name__ == "__main__":
    main()

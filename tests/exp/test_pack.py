"""``block-exp pack``: every subcommand, on files of its own making."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from packs import HEADER

from block.latency.journal import JournalStep, JournalWriter
from block.latency.pack import load_pack
from block.types import BatchShape
from exp.cli import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["pack", *arguments])
    return int(caught.value.code or 0)


def recorded(folder: Path, steps: int) -> Path:
    writer = JournalWriter(folder / "engine.journal", HEADER)
    for n in range(1, steps + 1):
        shape = BatchShape(0, n % 7 + 1, 100 * n, 0, n % 7 + 1)
        writer.append(JournalStep(n, float(n), n + 0.01 + n / 1e4, 0.01 + n / 1e4, 0.001, shape))
    writer.close()
    return folder / "engine.journal"


def test_a_recording_becomes_a_pack_that_can_be_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack, figure = tmp_path / "engine.npz", tmp_path / "engine.png"
    assert run("from-journal", str(recorded(tmp_path, 80)), "--out", str(pack), "--notes", "mine") == 0
    assert "80 steps" in capsys.readouterr().out
    assert run("inspect", str(pack), "--plot", str(figure)) == 0
    output = capsys.readouterr().out
    assert "mine" in output
    summary = json.loads(output.splitlines()[-1])
    assert (summary["steps"], summary["source"], summary["kv_blocks"]) == (80, "measured", 1052)
    assert summary["mean_ratio"] == pytest.approx(1.0, abs=0.02)
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_datasheet_becomes_a_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a40.npz"
    limits = ("--max-num-seqs", "8", "--max-num-batched-tokens", "256")
    assert run("model", "--gpu", "a40", "--model", "llama-2-7b", "--out", str(out), *limits) == 0
    assert "KV blocks" in capsys.readouterr().out
    assert load_pack(out).header.source == "modelled"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("inspect", "nowhere.npz"), "nowhere.npz"),
        (("inspect", "nowhere.npz", "--plot", "nowhere/x.png"), "--plot nowhere/x.png: cannot be written"),
        (("inspect", "nowhere.npz", "--plot", "x.magic"), "no such format"),
        (("from-journal", "nowhere", "--out", "x.npz"), "nowhere"),
        (("import-llm-emu", "nowhere.json", "--out", "x.npz"), "nowhere.json"),
        (("model", "--gpu", "abacus", "--model", "llama-2-7b", "--out", "x.npz"), "abacus.yaml"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 1
    error = capsys.readouterr().err.strip()
    assert named in error
    assert "\n" not in error

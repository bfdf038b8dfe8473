"""The simulated cluster agrees with real vLLM servers whose GPUs are emulated, behind the real router."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from exp.local_model import make_local_model

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_means_and_p99_lie_within_the_goal_of_emulated_servers() -> None:
    make_local_model("llama-2-7b", ROOT / ".cache/models/llama-2-7b")
    command = [sys.executable, "-m", "exp.cli", "cluster-check", "--instances", "2"]
    # On a slower GPU the machine's other work, which no simulation knows of, weighs less.
    options = ["--requests", "120", "--rate", "3.5", "--slower", "4", "--workload", "generated"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [one["policy"] for one in result["policies"]] == ["round_robin", "block"]
    assert result["worst"] <= result["goal"], result

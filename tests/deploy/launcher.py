"""A launcher in its own process, for tests that end it in every way. Argument: a pickled ClusterPlan."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from rich.console import Console

from deploy.launch import run_until_signalled, stay_up

if __name__ == "__main__":
    run_until_signalled(stay_up(pickle.loads(Path(sys.argv[1]).read_bytes()), Console()))

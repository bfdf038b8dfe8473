from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def text_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts that say how long their answers are, in two sets."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name in ("text_a", "text_b"):
        rows = []
        for number in range(150):
            long = bool(random.random() < 0.5)
            words = int(random.integers(180, 220) if long else random.integers(8, 12))
            prompt = f"{name} {number}: write {'an essay' if long else 'one line'} about it"
            rows.append({"prompt": prompt, "response": "word " * words, "model": name})
        (folder / name).mkdir()
        (folder / name / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder

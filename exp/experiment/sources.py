"""Which code made a run: a digest of this project's Python sources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

_HERE = Path(__file__).resolve().parents[2]
_DECIDE: Final = (
    "block",
    "exp/cluster",
    "exp/workload",
    "global_scheduler",
    "length_estimation",
    "predictor",
)
"""Folders whose code decides what becomes of a simulated cell's requests, beside its back end."""
_BACKEND: Final = ("exp/experiment/simulated.py", "exp/experiment/cell.py", "exp/experiment/table.py")


@cache
def sources_digest() -> str:
    """Of all files that decide a simulated cell's result: another byte, another digest."""
    digest = hashlib.sha256()
    for path in sorted(source_files()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(_HERE)} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def source_files() -> Iterator[Path]:
    """What the digest is of."""
    for name in _DECIDE:
        yield from (_HERE / name).rglob("*.py")
    yield from (_HERE / name for name in _BACKEND)


def covers(policy: str) -> bool:
    """Whether the digest is also of a policy's code: not of a ``package.module:Class`` from elsewhere."""
    module, colon, _ = policy.partition(":")
    return not colon or any(f"{module}.".startswith(name.replace("/", ".") + ".") for name in _DECIDE)

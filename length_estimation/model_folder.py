"""A saved model's folder: data files, and a card that says what they are and what they must hash to.

Nothing is unpickled. Whatever is missing, foreign or damaged is a PackError that says which.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec

from block.errors import ConfigError, PackError

CARD: Final = "card.json"
FORMAT: Final = 1
BY_BYTES: Final = "bytes / 4"
"""How lengths were counted without a tokenizer, in the words of a card's data."""


class Card(msgspec.Struct, frozen=True):
    """Where a model comes from and how good it was."""

    format: int
    kind: str
    """Name of the estimator that can load it."""
    model: str
    """Digest of the files, in brief: the version that estimates carry."""
    made: str
    """Date, UTC."""
    data: dict[str, Any]
    """Names, rows and digests of the training data."""
    settings: dict[str, Any]
    metrics: dict[str, Any]
    """On the part that was held out."""
    versions: dict[str, str]
    files: dict[str, str]
    """File name -> SHA-256."""


def write_card(
    folder: Path,
    kind: str,
    files: list[str],
    *,
    made: str,
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
    packages: tuple[str, ...],
) -> Card:
    """Hash the files, which must lie in the folder already, and write the card last."""
    digests = {name: file_digest(folder / name) for name in sorted(files)}
    card = Card(
        format=FORMAT,
        kind=kind,
        model=_brief(digests),
        made=made,
        data=dict(data),
        settings=dict(settings),
        metrics=dict(metrics),
        versions={"python": platform.python_version(), **_versions(packages)},
        files=digests,
    )
    return _put(folder, card)


def with_files(
    folder: Path, files: tuple[str, ...], settings: Mapping[str, Any], metrics: Mapping[str, Any]
) -> Card:
    """The folder's card, written anew with further or changed files of the same model, and how they came."""
    card = peek_card(folder)
    digests = {**card.files, **{name: file_digest(folder / name) for name in files}}
    changed = msgspec.structs.replace(
        card,
        files=digests,
        model=_brief(digests),
        settings={**card.settings, **settings},
        metrics={**card.metrics, **metrics},
    )
    return _put(folder, changed)


def read_card(folder: Path, kind: str) -> Card:
    """The card of a whole model of that kind. Raises PackError."""
    card = peek_card(folder)
    if card.kind != kind:
        raise PackError(f"{folder}: holds a model of kind {card.kind!r}, not {kind!r}; name the estimator so")
    for name, digest in card.files.items():
        if Path(name).name != name:
            raise PackError(f"{folder / CARD}: files: {name!r} lies elsewhere; the card is not ours")
        if not (folder / name).is_file():
            raise PackError(f"{folder / name}: missing; the card names it")
        if file_digest(folder / name) != digest:
            raise PackError(
                f"{folder / name}: damaged (its SHA-256 is not the card's); train or copy it anew"
            )
    return card


def peek_card(folder: Path) -> Card:
    """The card alone, its files unchecked. Raises PackError."""
    path = folder / CARD
    try:
        card = msgspec.json.decode(path.read_bytes(), type=Card)
    except OSError as error:
        raise PackError(f"{path}: cannot be read ({error.strerror}); is this a trained model?") from error
    except (ValueError, RecursionError) as error:
        raise PackError(f"{path}: not a model's card ({error})") from error
    if card.format != FORMAT:
        raise PackError(f"{path}: format {card.format}, this version reads {FORMAT}; train the model anew")
    return card


def counted_by(tokenizer: Path | None) -> str:
    """A way to count tokens, told apart from others. Raises ConfigError if there is no such file."""
    if tokenizer is None:
        return BY_BYTES
    try:
        return f"{tokenizer.name} {file_digest(tokenizer)[:16]}"
    except OSError as error:
        raise ConfigError(f"--tokenizer {tokenizer}: cannot be read ({error.strerror})") from error


def check_counting(folder: Path, tokenizer: Path | None) -> None:
    """Raises ConfigError if a model was trained on tokens that were counted otherwise."""
    counted = peek_card(folder).data.get("counted")
    if counted in (None, counted_by(tokenizer)):
        return
    if tokenizer is not None and counted == tokenizer.name:
        return  # an older card: it says no more
    remedy = "leave --tokenizer out" if tokenizer else "name that tokenizer with --tokenizer"
    raise ConfigError(f"{folder}: was trained on tokens counted by {counted}; {remedy}")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put(folder: Path, card: Card) -> Card:
    (folder / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=1))
    return card


def _brief(digests: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(digests[name] for name in sorted(digests)).encode()).hexdigest()[:8]


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found

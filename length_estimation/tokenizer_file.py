"""Reads a ``tokenizer.json``; the one place that knows how the tokenizers library says no."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from block.errors import PackError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """Raises PackError if the file is missing or damaged."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PackError(f"{path}: cannot be read ({error.strerror}); check it") from error
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, ValueError):
            raise  # the library's own are bare ones; no narrower clause fits
        raise PackError(f"{path}: not a tokenizer.json ({error})") from error

"""`edgernn convert` in this process, and what to look at afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras import layers

from edgernn.cli import main
from tests.quantize.networks import chain, randomized

__all__ = ["classifier", "convert", "one_line", "tree"]


def classifier() -> Any:
    return randomized(chain(layers.GRU(12, return_sequences=True, name="gru"), layers.Dense(3, activation="softmax")))


def convert(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def tree(folder: Path) -> dict[str, bytes]:
    """Return everything in a folder, hidden things too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


def one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]

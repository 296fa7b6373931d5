"""Tables and messages for people, in plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["one_line", "table", "without_passwords"]


def table(header: Sequence[str], rows: Sequence[Sequence[object]], indent: str = "") -> str:
    """Lay out rows under a header; cells that begin with a digit or a sign are aligned to the right.

    >>> print(table(["word", "recall"], [["up", "97.1"], ["down", "8.0"]]))
    word  recall
    up      97.1
    down     8.0
    """
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(row[i][:1] in "0123456789-+–" for row in cells[1:] if row[i]) for i in range(len(header))]
    lines = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        for row in cells
    )
    return "\n".join((indent + line).rstrip() for line in lines)


def one_line(words: object, most: int = 300) -> str:
    """Return what a library says, over many lines and in colours perhaps, as one line of at most `most` letters.

    >>> one_line(ValueError("no such\\n    operator: \\x1b[1mRm\\x00"))
    'no such operator: [1mRm'
    """
    line = "".join(letter for letter in " ".join(without_passwords(str(words)).split()) if letter.isprintable())
    return line if len(line) <= most else f"{line[:most]}…"


def without_passwords(words: str) -> str:
    """Return words that can be shown: with stars for what stands before the host of a URI, or is a secret option.

    >>> without_passwords("no answer from mqtt://anna:secret@broker/hall?user=anna&password=secret")
    'no answer from mqtt://***@broker/hall?user=anna&password=***'
    """
    words = re.sub(r"(?<=://)[^/\s]*@", "***@", words)
    return re.sub(r"(?<=[?&])(password|token|secret)=[^&\s'\"]+", r"\1=***", words)

"""Bytes to lines."""

from __future__ import annotations

__all__ = ["LineSplitter"]

MOST_LINE = 4096


class LineSplitter:
    """Bytes in any cut to lines; what is before the first end of a line is left out, as it may have no beginning."""

    def __init__(self, whole: bool = False) -> None:
        self._rest = b""
        self._skip = not whole
        self.too_long = 0
        """Lines that were, and are left out."""

    def push(self, data: bytes) -> list[bytes]:
        """Take bytes, return the lines that they complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._skip and lines:
            lines, self._skip = lines[1:], False
        if len(self._rest) > MOST_LINE:
            self.too_long += not self._skip
            self._rest, self._skip = b"", True
        kept = [line for line in lines if len(line) <= MOST_LINE]
        self.too_long += len(lines) - len(kept)
        return kept

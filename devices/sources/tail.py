"""The lines of a file that grows, is rotated, and is truncated."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import IO

from edgernn.devices.sources.lines import LineSplitter

__all__ = ["Tail"]

MISSING_S = 5.0  # without the file for so long, following it is over
READ_BYTES = 65536

_log = logging.getLogger(__name__)


class Tail:
    """The lines of a file that grows; one that was replaced is read to its end, then the new one from its beginning."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: IO[bytes] = Path(path).open("rb")  # noqa: SIM115 (stays open)
        self._lines = LineSplitter(whole=True)
        self._missing_s: float | None = None
        self.too_long = 0
        """Lines that were, and are left out; for the caller to count and set back."""
        self.first = True
        """Whether the next line is the first one of its file."""

    def read(self) -> list[bytes]:
        """Return the lines that are complete, perhaps none; raise `FileNotFoundError` where the file stays away."""
        data = self._file.read(READ_BYTES)
        if not data and self._moved_on():
            data = self._file.read(READ_BYTES)
        lines = self._lines.push(data)
        self.too_long, self._lines.too_long = self.too_long + self._lines.too_long, 0
        return lines

    def rest(self) -> bytes:
        """Return what is after the last end of a line."""
        return b"".join(self._lines.push(b"\n"))

    def to_end(self) -> None:
        """Leave out what is there now, but a line that is being written."""
        size = self._file.seek(0, os.SEEK_END)
        back = min(size, READ_BYTES)
        self._file.seek(size - back)
        tail = self._file.read(back)
        self._lines, self.first = LineSplitter(whole=True), size == 0
        self._lines.push(tail.rpartition(b"\n")[2] if b"\n" in tail or back == size else b"")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _moved_on(self) -> bool:
        """Look whether the file is another one, or shorter; return whether there is something new to read."""
        try:
            found = Path(self._path).stat()
        except FileNotFoundError:
            now = time.monotonic()
            self._missing_s = self._missing_s or now
            if now - self._missing_s > MISSING_S:
                raise
            return False
        self._missing_s = None
        ours = os.fstat(self._file.fileno())
        if (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino):
            if self._file.tell() < ours.st_size:  # written between the two looks
                return True
            fresh = Path(self._path).open("rb")  # noqa: SIM115
            self._file.close()
            self._file, change = fresh, "rotated"
        elif found.st_size < self._file.tell():
            self._file.seek(0)
            change = "truncated"
        else:
            return False
        _log.info("%s was %s, and is read from its beginning", self._path, change)
        self._lines, self.first = LineSplitter(whole=True), True
        return True

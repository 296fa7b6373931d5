"""Values of a CSV file: `csv:PATH?columns=a,b`, one frame a row; with `follow`, rows as they are added to it."""

from __future__ import annotations

import csv
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edgernn.devices.sources.serial_line import LineSplitter
from edgernn.devices.sources.values import as_frame
from edgernn.errors import SourceError, UsageError
from edgernn.stream import Chunk

__all__ = ["CsvOptions", "CsvSource", "Tail"]

CHUNK_S = 0.02
CHUNK_ROWS = 256  # of a file that is taken as quickly as possible
LOOK_S = 0.05
IDLE_S = 1.0
MISSING_S = 5.0  # without the file for so long, following it is over
READ_BYTES = 65536


@dataclass(frozen=True)
class CsvOptions:
    """Options of the source."""

    columns: tuple[str, ...] = ()
    """Names in the header, or numbers from 0; by default all there are."""
    follow: bool = False
    """Go on with what is added, from now on."""
    start: str = "end"
    """With `follow`: "end", or "begin" to read what is there before."""
    rate: float | None = None
    """Rows a second; by default the model's."""
    delimiter: str = ","
    """One character, or "tab"."""


class Tail:
    """The lines of a file that grows; one that was replaced is read to its end, then the new one from its beginning."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: IO[bytes] = Path(path).open("rb")  # noqa: SIM115 (stays open)
        self._lines = LineSplitter(whole=True)
        self._missing_s: float | None = None
        self.changes: Counter[str] = Counter()
        """How often it was "rotated" or "truncated"."""
        self.too_long = 0
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
        self.changes[change] += 1
        self._lines, self.first = LineSplitter(whole=True), True
        return True


class CsvSource:
    """Reads as it is taken: the file itself is what waits for a slow reader. Rows that are none are counted."""

    def __init__(
        self, path: str, options: CsvOptions, shape: tuple[int, ...], rate_hz: float, fast: bool = False
    ) -> None:
        self.rate_hz = rate_hz
        self._path, self._options, self._shape, self._fast = path, options, shape, fast
        self._size = int(np.prod(shape))
        self._closed = threading.Event()
        self._lost = 0
        self._dropped: Counter[str] = Counter()
        if options.columns and len(options.columns) != self._size:
            raise UsageError(
                f"csv:{path} names {len(options.columns)} columns, and the model takes {self._size} values"
            )
        if options.start not in ("begin", "end"):
            raise UsageError(f"csv:{path} can start at its 'begin' or 'end', not at '{options.start}'")
        self._delimiter = "\t" if options.delimiter == "tab" else options.delimiter
        if len(self._delimiter) != 1:
            raise UsageError(f"the delimiter of csv:{path} must be one character or 'tab', not '{options.delimiter}'")
        try:
            self._columns = self._find_columns()
            self._tail = Tail(path)
            if options.follow and options.start == "end":
                self._tail.to_end()
        except OSError as error:
            raise SourceError(f"the file {path} cannot be read: {error.strerror}") from error

    def _find_columns(self) -> list[int] | None:
        """Return which columns to take, by the header where they are named; None for all."""
        names = self._options.columns
        if not names or all(name.isdecimal() for name in names):
            return [int(name) for name in names] or None
        with Path(self._path).open("rb") as file:
            header = file.readline(READ_BYTES)
        return self._named(self._cells(header)) if header else None

    def _named(self, found: Sequence[str]) -> list[int]:
        names = self._options.columns
        missing = [name for name in names if name not in found]
        if missing:
            raise SourceError(f"the file {self._path} has no column '{missing[0]}': its first line is {found}")
        return [found.index(name) for name in names]

    def _cells(self, line: bytes) -> list[str]:
        text = line.decode("utf-8-sig").strip()
        return [cell.strip() for cell in next(csv.reader([text], delimiter=self._delimiter), [])]

    def __iter__(self) -> Iterator[Chunk]:
        return self._following() if self._options.follow else self._reading()

    def _following(self) -> Iterator[Chunk]:
        told_s = time.monotonic()
        while not self._closed.wait(0):
            rows = self._rows(self._read())
            now = time.monotonic()
            if rows:
                yield self._chunk(rows, now)
            elif now - told_s < IDLE_S:
                self._closed.wait(LOOK_S)
                continue
            else:
                yield self._chunk([], now, idle=True)
            told_s = now

    def _reading(self) -> Iterator[Chunk]:
        size = CHUNK_ROWS if self._fast else max(1, round(CHUNK_S * self.rate_hz))
        begin, count, rows = time.monotonic(), 0, list[NDArray[np.float32]]()
        ended = False
        while not self._closed.is_set() and not (ended and not rows):
            while len(rows) < size and not ended:
                before = self._tail.first
                lines = self._read()
                ended = not lines and self._tail.first == before  # not a header alone
                rows += self._rows([self._tail.rest()] if ended else lines)
            taken, rows = rows[:size], rows[size:]
            count += len(taken) + self._lost
            due = begin + count / self.rate_hz
            if self._closed.wait(0 if self._fast else max(0.0, due - time.monotonic())):
                break
            if taken or self._dropped:
                yield self._chunk(taken, due)

    def _read(self) -> list[bytes]:
        try:
            lines = self._tail.read()
        except OSError as error:
            raise SourceError(f"the file {self._path} cannot be read any more: {error.strerror}") from error
        except ValueError:  # closed in the middle of it
            return []
        self._drop(self._tail.too_long)
        self._tail.too_long = 0
        return self._without_header(lines) if lines and self._tail.first else lines

    def _without_header(self, lines: list[bytes]) -> list[bytes]:
        """Take the header off the beginning of a file, if there is one."""
        self._tail.first = False
        names = self._options.columns
        if names and not all(name.isdecimal() for name in names):
            self._columns = self._named(self._cells(lines[0]))
            return lines[1:]
        try:
            self._row(self._cells(lines[0]))
        except (ValueError, csv.Error):
            return lines[1:]
        return lines

    def _rows(self, lines: Sequence[bytes]) -> list[NDArray[np.float32]]:
        rows = []
        for line in lines:
            try:
                cells = self._cells(line)
                if cells and not cells[0].startswith("#"):
                    rows.append(self._row(cells))
            except (ValueError, csv.Error):
                self._drop(1)
        return rows

    def _row(self, cells: Sequence[str]) -> NDArray[np.float32]:
        if self._columns is None:
            if len(cells) != self._size:
                raise ValueError(f"{len(cells)} values")
        elif max(self._columns) < len(cells):
            cells = [cells[column] for column in self._columns]
        else:
            raise ValueError(f"{len(cells)} values")
        return as_frame([float(cell or "nan") for cell in cells], self._shape)

    def _drop(self, count: int) -> None:
        if count:
            self._lost += count
            self._dropped["malformed"] += count

    def _chunk(self, rows: Sequence[NDArray[np.float32]], time_s: float, idle: bool = False) -> Chunk:
        frames = np.concatenate(rows) if rows else np.zeros((0, *self._shape), np.float32)
        chunk = Chunk(frames, time_s, self._lost, dict(self._dropped), idle)
        self._lost, self._dropped = 0, Counter()
        return chunk

    def close(self) -> None:
        """End the iteration, also from another thread."""
        self._closed.set()
        self._tail.close()

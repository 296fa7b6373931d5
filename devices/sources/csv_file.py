"""Values of a CSV file: `csv:PATH?columns=a,b`, one frame a row; with `follow`, rows as they are added to it."""

from __future__ import annotations

import csv
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgernn.devices.sources.tail import Tail
from edgernn.devices.sources.values import as_frame
from edgernn.errors import NotThereError, SourceError, UsageError
from edgernn.stream import Chunk

__all__ = ["CsvOptions", "CsvSource"]

CHUNK_S = 0.02
CHUNK_ROWS = 256  # of a file that is taken as quickly as possible
LOOK_S = 0.05
IDLE_S = 1.0
READ_BYTES = 65536
Row = NDArray[np.float32] | None
"""One frame `(1, features...)`; None for a row that is none."""


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


class CsvSource:
    """Reads as it is taken: the file itself is what waits for a slow reader. Rows that are none are counted."""

    def __init__(
        self, path: str, options: CsvOptions, shape: tuple[int, ...], rate_hz: float, fast: bool = False
    ) -> None:
        self.rate_hz = rate_hz
        self._path, self._options, self._shape, self._fast = path, options, shape, fast
        self._size = int(np.prod(shape))
        self._closed = threading.Event()
        self.remark = ""
        """What was wrong with the latest row that was none."""
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
            is_mistake = isinstance(error, FileNotFoundError) and not options.follow  # else it may come
            kind = NotThereError if is_mistake else SourceError
            raise kind(f"the file {path} cannot be read: {error.strerror}") from error

    def _find_columns(self) -> list[int] | None:
        """Return which columns to take, by the header where they are named; None for all."""
        names = self._options.columns
        if names and all(name.isdecimal() for name in names):
            return [int(name) for name in names]
        with Path(self._path).open("rb") as file:
            header = file.readline(READ_BYTES)
        if not names and header.strip() and not header.startswith(b"#"):
            self._check_width(self._cells(header))
        return self._named(self._cells(header)) if names and header else None

    def _check_width(self, found: Sequence[str]) -> None:
        if len(found) != self._size:
            raise SourceError(
                f"the file {self._path} has {len(found)} columns, {', '.join(found[:9])}, and the model takes "
                f"{self._size} values: name them, as in columns=A,B"
            )

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
            if not rows and now - told_s < IDLE_S:
                self._closed.wait(LOOK_S)
                continue
            yield from self._chunks(rows, now)
            if not rows:
                yield Chunk(np.zeros((0, *self._shape), np.float32), now, idle=True)
            told_s = now

    def _reading(self) -> Iterator[Chunk]:
        size = CHUNK_ROWS if self._fast else max(1, round(CHUNK_S * self.rate_hz))
        begin, count, rows, ended = time.monotonic(), 0, list[Row](), False
        while not self._closed.is_set() and not (ended and not rows):
            while len(rows) < size and not ended:
                before = self._tail.first
                lines = self._read()
                ended = not lines and self._tail.first == before  # not a header alone
                rows += self._rows([self._tail.rest()] if ended else lines)
            taken, rows = rows[:size], rows[size:]
            count += len(taken)
            due = begin + count / self.rate_hz
            if self._closed.wait(0 if self._fast else max(0.0, due - time.monotonic())):
                break
            yield from self._chunks(taken, due)

    def _chunks(self, rows: Sequence[Row], time_s: float) -> Iterator[Chunk]:
        """Yield rows, cut where one is malformed."""
        lost, empty = 0, np.zeros((0, *self._shape), np.float32)
        for malformed, run in itertools.groupby(rows, lambda row: row is None):
            if malformed:
                lost = len(list(run))
            else:
                frames = np.concatenate([row for row in run if row is not None])
                yield Chunk(frames, time_s, lost, {"malformed": lost} if lost else {})
                lost = 0
        if lost:
            yield Chunk(empty, time_s, lost, {"malformed": lost})

    def _read(self) -> list[bytes]:
        try:
            lines = self._tail.read()
        except OSError as error:
            raise SourceError(f"the file {self._path} cannot be read any more: {error.strerror}") from error
        except ValueError:  # closed in the middle of it
            return []
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

    def _rows(self, lines: Sequence[bytes]) -> list[Row]:
        rows: list[Row] = [None] * self._tail.too_long
        self._tail.too_long = 0
        for line in lines:
            try:
                cells = self._cells(line)
                if cells and not cells[0].startswith("#"):
                    rows.append(self._row(cells))
            except (ValueError, csv.Error) as error:
                self.remark = str(error)
                rows.append(None)
        return rows

    def _row(self, cells: Sequence[str]) -> NDArray[np.float32]:
        if self._columns is None:
            if len(cells) != self._size:
                raise ValueError(f"{len(cells)} values, and the model takes {self._size}")
        elif max(self._columns) < len(cells):
            cells = [cells[column] for column in self._columns]
        else:
            raise ValueError(f"{len(cells)} values")
        return as_frame([float(cell or "nan") for cell in cells], self._shape)

    def close(self) -> None:
        """End the iteration, also from another thread."""
        self._closed.set()
        self._tail.close()

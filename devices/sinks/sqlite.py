"""Rows of a table `events` in an SQLite file, each event once: `sqlite:PATH?keep=100000`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgernn.errors import SinkError
from edgernn.events import Message

__all__ = ["SqliteOptions", "SqliteSink"]

LOCK_WAIT_S = 5.0
TABLE = """
CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, pipeline TEXT NOT NULL, time TEXT NOT NULL, word TEXT, score REAL, json TEXT NOT NULL)
"""


@dataclass(frozen=True)
class SqliteOptions:
    """Options of the sink."""

    keep: int | None = None
    """How many rows stay, the newest."""


class SqliteSink:
    """A file that other programs may read at the same time (it has a write-ahead log)."""

    def __init__(self, path: str, options: SqliteOptions | None = None) -> None:
        self._path, self._keep = path, (options or SqliteOptions()).keep
        with self._errors():
            self._connection = sqlite3.connect(path, LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute(TABLE)
                self._inode = Path(path).stat().st_ino
            except sqlite3.Error:
                self._connection.close()
                raise

    def write(self, message: Message) -> None:
        """Add a row, unless it is there; it has reached the disk when this returns."""
        event, values = message.event, (message.id, message.pipeline, message.time)
        texts = [value.encode("utf-8", "replace").decode() for value in (*values, event.label)]  # no lone surrogates
        with self._errors():
            if Path(self._path).stat().st_ino != self._inode:
                raise FileNotFoundError
            self._connection.execute(
                "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?)", (*texts, event.score, message.to_json())
            )
            if self._keep:
                newest = "SELECT rowid FROM events ORDER BY rowid DESC LIMIT 1 OFFSET ?"
                self._connection.execute(f"DELETE FROM events WHERE rowid <= ({newest})", (self._keep,))

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise SinkError(f"events cannot be written to the database {self._path}: {error}") from error
        except OSError as error:
            raise SinkError(f"the database {self._path} for events was taken away") from error

"""The file of a queue: rows in SQLite, changed in transactions; a damaged file is set aside and what can be read, kept.

One process has it at a time (which spares it the shared memory of WAL, too). A write that is synchronized survives a
power cut, one that is not a process killed at any moment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from edgernn.devices.daemon.queue_room import CHECKPOINT_PAGES, closing_with_log, drop_padding, make_room
from edgernn.errors import FailureError

__all__ = ["QueueFile", "Row"]

VERSION = 1  # of the table
LOCK_WAIT_S = 1.0  # for a daemon that is just ending

_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """One message on its way to one sink."""

    number: int
    """Counts up; the order of delivery."""
    sink: str
    id: str
    line: str
    """The message as JSON."""

    @property
    def size(self) -> int:
        """Bytes of the message."""
        return len(self.line.encode())


class QueueFile:
    """Rows on disk. Raises `sqlite3.Error` where the disk does not play along; not for several threads at once."""

    def __init__(self, path: Path) -> None:
        """Open or make the file; raise `FailureError` where another process has it, or it never could be there."""
        self.saved: list[Row] = []
        """What could be read out of a file that was damaged: it is not in this one."""
        self._path = path
        try:
            self._connection = _open(path)
        except sqlite3.OperationalError as error:
            _raise_if_hopeless(path, error)
            raise
        except sqlite3.DatabaseError as error:
            self.saved = _readable_rows(path)
            aside = _set_aside(path)
            kept = len(self.saved)
            _log.warning("the queue %s is damaged (%s): set aside as %s, %d events kept", path, error, aside, kept)
            self._connection = _open(path)
        self._inode = path.stat().st_ino
        self._wants_room = True
        self._keep_room()

    @property
    def taken_away(self) -> bool:
        """Whether somebody removed the file, or put another one in its place."""
        try:
            return self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def oldest(self, limit: int, sink: str | None = None) -> list[Row]:
        """Return the oldest rows, of one sink or all; a limit of -1 is none."""
        where = "" if sink is None else "WHERE sink = :sink"
        query = f"SELECT number, sink, id, line FROM queue {where} ORDER BY number LIMIT :limit"
        return [Row(*row) for row in self._connection.execute(query, {"sink": sink, "limit": limit})]

    def change(self, added: Iterable[Row], removed: Iterable[int], synchronized: bool) -> None:
        """Add rows and remove others by number: all of it or nothing."""
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if synchronized else 'NORMAL'}")
        with _transaction(self._connection):
            self._connection.executemany("DELETE FROM queue WHERE number = ?", [(number,) for number in removed])
            self._connection.executemany("INSERT INTO queue VALUES (?, ?, ?, ?)", added)
        self._keep_room()

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self.taken_away:
            self._connection.close()
            return
        with contextlib.suppress(sqlite3.Error), closing_with_log(self._path):
            self._connection.close()

    def _keep_room(self) -> None:
        if self._wants_room:
            try:
                make_room(self._connection, self._path)
            except (sqlite3.Error, OSError) as error:
                self._wants_room = False
                _log.debug("the queue %s keeps no room for itself: %s", self._path, error)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        with _transaction(connection):
            _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """Check the table, or make it."""
    (problem,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if problem != "ok" or version not in (0, VERSION):
        raise sqlite3.DatabaseError(problem if problem != "ok" else f"it is of version {version}, not {VERSION}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS queue"
        "(number INTEGER PRIMARY KEY, sink TEXT NOT NULL, id TEXT NOT NULL, line TEXT NOT NULL)"
    )
    connection.execute("CREATE INDEX IF NOT EXISTS of_sink ON queue (sink, number)")
    drop_padding(connection)
    if version != VERSION:
        connection.execute(f"PRAGMA user_version = {VERSION}")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back by itself when the disk is full
            connection.execute("ROLLBACK")
        raise


def _raise_if_hopeless(path: Path, error: sqlite3.Error) -> None:
    """Tell a file that cannot be had from a disk that has no room just now."""
    if "locked" in str(error):
        raise FailureError(f"the queue {path} is in use: does another daemon run with it?") from error
    if not path.parent.is_dir() or path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise FailureError(f"the queue {path} cannot be opened: expected a file that may be written") from error


def _readable_rows(path: Path) -> list[Row]:
    rows: list[Row] = []
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as connection:
        for row in connection.execute("SELECT number, sink, id, line FROM queue NOT INDEXED ORDER BY number"):
            if [type(value) for value in row] == [int, str, str, str]:
                rows.append(Row(*row))
    return rows


def _set_aside(path: Path) -> Path:
    """Rename the file, over the one that was set aside before: there is never more than one."""
    aside = path.with_name(f"{path.name}.damaged")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return path.replace(aside)

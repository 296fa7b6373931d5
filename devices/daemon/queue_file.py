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
STRANGE = "typeof(number) != 'integer' OR typeof(sink) != 'text' OR typeof(id) != 'text' OR typeof(line) != 'text'"
MENDED = "mended"
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
        """What was read out of a damaged file, where the disk has no room for it: it is not in this one."""
        self._path = path
        try:
            _put_in_place(path)
            self._connection = _open(path)
        except sqlite3.OperationalError as error:
            _raise_if_hopeless(path, error)
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            rows = _readable_rows(path)
            self.saved = [] if _mend(path, rows) else rows
            aside, kept = _set_aside(path), len(rows)
            _put_in_place(path)
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
    connection.text_factory = _text
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


def _text(data: bytes) -> str:
    """Decode a text of which bytes may be damaged, for which SQLite does not look: that is one event, not all."""
    return data.decode("utf-8", "replace")


def _prepare(connection: sqlite3.Connection) -> None:
    """Check the table and its index, or make them."""
    (problem,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if problem != "ok" or version not in (0, VERSION):
        raise sqlite3.DatabaseError(problem if problem != "ok" else f"it is of version {version}, not {VERSION}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS queue"
        "(number INTEGER PRIMARY KEY, sink TEXT NOT NULL, id TEXT NOT NULL, line TEXT NOT NULL)"
    )
    columns = [row[1] for row in connection.execute("PRAGMA table_info(queue)")]
    if columns != [*Row._fields] or connection.execute(f"SELECT 1 FROM queue WHERE {STRANGE} LIMIT 1").fetchone():
        raise sqlite3.DatabaseError("it has rows that are none")
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
    with (
        contextlib.suppress(sqlite3.Error, UnicodeDecodeError),
        contextlib.closing(sqlite3.connect(path)) as connection,
    ):
        connection.text_factory = _text
        for row in connection.execute("SELECT number, sink, id, line FROM queue NOT INDEXED ORDER BY number"):
            if [type(value) for value in row] == [int, str, str, str]:
                rows.append(Row(*row))
    return rows


def _mend(path: Path, rows: Iterable[Row]) -> bool:
    """Write what could be read into another file, before the damaged one goes; return whether the disk had room."""
    fresh, mended = (path.with_name(f"{path.name}.{name}") for name in ("fresh", MENDED))
    try:
        fresh.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as connection, _transaction(connection):
            _prepare(connection)
            connection.executemany("INSERT OR IGNORE INTO queue VALUES (?, ?, ?, ?)", rows)
        fresh.replace(mended)  # from here on, it is what counts
    except (sqlite3.Error, OSError):
        fresh.unlink(missing_ok=True)
        return False
    return True


def _set_aside(path: Path) -> Path:
    """Rename the file, over the one that was set aside before: there is never more than one."""
    aside = path.with_name(f"{path.name}.damaged")
    if path.exists():
        path.replace(aside)
    for suffix in ("-wal", "-shm"):  # which belong to no other file
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside


def _put_in_place(path: Path) -> None:
    """Go on with what was mended, also by a process that was killed before it could."""
    mended = path.with_name(f"{path.name}.{MENDED}")
    if mended.exists():
        _set_aside(path)
        mended.replace(path)

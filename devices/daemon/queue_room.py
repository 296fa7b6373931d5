"""Room on the disk that a queue keeps for itself, so that events still land there when nothing else does.

Free pages within the file take the rows, and a write-ahead log that was as long once is written over in place. (A file
system that copies on write, such as Btrfs, may refuse even that.)
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

__all__ = ["closing_with_log", "drop_padding", "make_room"]

PAGES = 128  # of 4 KB: about 2000 events
PAGE_BYTES = 4096
CHECKPOINT_PAGES = 100
"""Where the log begins anew: before it is as long as the room."""
LEAVE_BYTES = 4 * PAGES * PAGE_BYTES  # what the disk must have before some of it is set aside
EMPTY_LOG = bytes(32)  # instead of its header: SQLite takes such a log for a new one


def make_room(connection: sqlite3.Connection, path: Path) -> None:
    """See to it that there is room, if the disk has more than that; raises `sqlite3.Error` if it cannot be had."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    if free >= PAGES // 2 and _length(_log_of(path)) > CHECKPOINT_PAGES * PAGE_BYTES:
        return
    disk = os.statvfs(path.parent)
    if disk.f_bavail * disk.f_frsize < LEAVE_BYTES:
        return
    connection.execute("CREATE TABLE padding (bytes BLOB)")
    connection.execute("INSERT INTO padding VALUES (zeroblob(?))", (PAGES * PAGE_BYTES,))
    connection.execute("PRAGMA wal_checkpoint").fetchall()  # now the pages are in the file, not only promised
    drop_padding(connection)


def drop_padding(connection: sqlite3.Connection) -> None:
    """Free the pages; also those of a process that was killed before it could."""
    connection.execute("DROP TABLE IF EXISTS padding")


@contextlib.contextmanager
def closing_with_log(path: Path) -> Iterator[None]:
    """Keep the log's room while the connection is closed, which removes it: the next start may find a full disk."""
    log, kept = _log_of(path), path.with_name(f"{path.name}-room")
    with contextlib.suppress(OSError):
        kept.unlink(missing_ok=True)
        os.link(log, kept)
    yield
    with contextlib.suppress(OSError):
        if log.exists():
            kept.unlink(missing_ok=True)
            return
        with kept.open("r+b") as file:
            file.write(EMPTY_LOG)
            file.flush()
            os.fsync(file.fileno())
        kept.rename(log)


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

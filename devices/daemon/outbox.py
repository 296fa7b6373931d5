"""Events that wait for their sinks, on disk: bounded, in order, and still there after a kill or a power cut.

While the disk takes nothing they wait in memory, and go to the disk when it does again.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from edgernn.devices.daemon.queue_file import QueueFile, Row
from edgernn.devices.daemon.seldom import Seldom
from edgernn.errors import FailureError
from edgernn.events import Message

__all__ = ["Outbox"]

MOST_IN_MEMORY = 1000  # while the disk is full

_log = logging.getLogger(__name__)


class Outbox:
    """A queue for each sink, in one SQLite file; for several threads.

    It holds `most_events` events of `most_bytes` bytes in all, an event counted once for each sink that it waits for.
    Raises `FailureError` if another process has the file, or no file can be there.
    """

    def __init__(self, path: str | Path, most_events: int = 10_000, most_bytes: int = 16_000_000) -> None:
        self.path = Path(path)
        self.most_events, self.most_bytes = most_events, most_bytes
        self.dropped: Counter[str] = Counter()
        """Events given up, by cause: "queue full", "disk full", "disk error", "unreadable", "sink removed"."""
        self._lock = threading.RLock()
        self._bells: dict[str, Callable[[], object]] = {}
        self._file: QueueFile | None = None
        self._faults = Seldom(_log)
        self.fault: str | None = None
        """Why the disk takes nothing just now; None while all is well."""
        self.fault_since_s = 0.0
        self._closed = False
        self._number = 0
        self._depths: Counter[str] = Counter()
        self._bytes = 0
        self._memory: dict[int, Row] = {}  # rows that are not on disk yet
        self._gone: set[int] = set()  # rows that are still on disk, and should not be
        self._taken: dict[str, dict[str, Row]] = {}  # by sink and id
        try:
            self._open()
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
        self._save(synchronized=True)

    def put(self, message: Message, sinks: Sequence[str]) -> None:
        """Put an event in the queues of sinks: it is on disk when this returns, or in memory while the disk is full.

        What is too much goes, the oldest first, but not what is just being delivered.
        """
        line = message.to_json()
        with self._lock:
            for sink in sinks:
                self._add(sink, message.id, line)
            self._make_room()
            self._save(synchronized=True)
        for sink in sinks:
            self._bells.get(sink, _silent)()

    def take(self, sink: str, limit: int) -> list[Message]:
        """Return the oldest events of a sink, which stay until they are `done`."""
        messages: list[Message] = []
        with self._lock:
            self._save(synchronized=True)
            taken = self._taken[sink] = {}
            while not messages and (rows := self._oldest(limit, sink)):
                for row in rows:
                    if message := self._read(row):
                        messages.append(message)
                        taken[message.id] = row  # not the row's own, which may be damaged: it would never be done
        return messages

    def done(self, sink: str, ids: Iterable[str]) -> None:
        """Take off the events that have arrived; of what was taken, the others wait again."""
        with self._lock:
            taken = self._taken.pop(sink, {})
            for row in [taken[id_] for id_ in ids if id_ in taken]:
                self._remove(row)
            self._save(synchronized=False)  # lost in a power cut, it is delivered twice

    def depth(self, sink: str) -> int:
        """Return how many events wait for a sink."""
        with self._lock:
            return self._depths[sink]

    @property
    def in_memory(self) -> int:
        """How many events are not on disk, because it takes nothing just now."""
        return len(self._memory)

    def on_put(self, sink: str, bell: Callable[[], object]) -> None:
        """Have `bell` called (without delay, in the thread that puts) when there is something for a sink."""
        self._bells[sink] = bell

    def retain(self, sinks: Iterable[str]) -> None:
        """Give up what waits for any other sink: one that is not in the configuration any more."""
        with self._lock:
            for sink in set(self._depths) - set(sinks):
                rows = self._oldest(self._depths[sink], sink)
                for row in rows:
                    self._remove(row, "sink removed")
                if rows:
                    _log.warning(
                        "%d events for the sink %s are given up: it is not configured any more", len(rows), sink
                    )
            self._save(synchronized=False)

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what is called afterwards changes nothing there."""
        with self._lock:
            self._save(synchronized=True)
            self._closed = True
            if self._file is not None:
                self._file.close()

    def _add(self, sink: str, id_: str, line: str) -> None:
        self._number += 1
        row = self._memory[self._number] = Row(self._number, sink, id_, line)
        self._depths[row.sink] += 1
        self._bytes += row.size

    def _remove(self, row: Row, cause: str = "") -> None:
        if self._memory.pop(row.number, None) is None:
            self._gone.add(row.number)
        self._depths[row.sink] -= 1
        self._bytes -= row.size
        if cause:
            self.dropped[cause] += 1

    def _make_room(self) -> None:
        busy = {row.number for rows in self._taken.values() for row in rows.values()}
        count = 1
        while self._is_too_full:
            rows = [row for row in self._oldest(len(busy) + count) if row.number not in busy]
            for row in rows:
                if self._is_too_full:
                    self._remove(row, "queue full")
            if not rows:
                return
            count *= 2  # each look passes over all that were removed: one for each row would take minutes

    @property
    def _is_too_full(self) -> bool:
        return self._depths.total() > self.most_events or self._bytes > self.most_bytes

    def _oldest(self, limit: int, sink: str | None = None) -> list[Row]:
        """Return the oldest rows that wait, on disk or in memory."""
        stored: list[Row] = []
        if self._file is not None and not self._closed:
            try:
                stored = self._file.oldest(limit + len(self._gone), sink)
            except sqlite3.Error as error:
                self._failed(error)
        waiting = [row for row in stored if row.number not in self._gone]
        new = (row for row in self._memory.values() if sink in (None, row.sink))
        return [*waiting, *islice(new, limit)][:limit]

    def _read(self, row: Row) -> Message | None:
        try:
            return Message.from_json(row.line)
        except FailureError as error:
            _log.warning("an event for the sink %s is given up: %s", row.sink, error)
            self._remove(row, "unreadable")
            return None

    def _save(self, synchronized: bool) -> None:
        """Bring the file up to date, or note why that cannot be."""
        if self._closed or not (self._memory or self._gone or self._file is None):
            return
        try:
            if self._file is not None and self._file.taken_away:
                self._leave_file()
            if self._file is None:
                self._open()
            assert self._file is not None
            self._file.change(self._memory.values(), self._gone, synchronized)
        except (sqlite3.Error, OSError, FailureError) as error:
            self._failed(error)
            return
        if self.fault is not None:
            self.fault = None
            self._faults.over("the queue %s can be written again: %d events go there,", self.path, len(self._memory))
        self._memory, self._gone = {}, set()

    def _leave_file(self) -> None:
        """Take what waits out of a file that was removed, which can be read as long as it is open."""
        _log.warning("the queue %s was taken away: its events go into a new one", self.path)
        self._memory, self._gone = {row.number: row for row in self._oldest(self._depths.total())}, set()
        if self._file is not None:
            self._file.close()
        self._file = None

    def _open(self) -> None:
        """Open the file, count what it holds, and let what is in memory come after that."""
        self._file = QueueFile(self.path)
        stored = self._file.oldest(-1)
        newer = [row for row in self._file.saved if row.number not in self._gone] + list(self._memory.values())
        waiting = [row for row in stored if row.number not in self._gone]
        self._gone &= {row.number for row in stored}
        self._memory, self._taken = {}, {}
        self._depths = Counter(row.sink for row in waiting)
        self._bytes = sum(row.size for row in waiting)
        self._number = max((row.number for row in stored), default=0)
        for row in newer:
            self._add(row.sink, row.id, row.line)

    def _failed(self, error: Exception) -> None:
        """Note why the disk took nothing; what is then too much for the memory goes, the oldest first."""
        fault = "disk full" if "full" in str(error) else "disk error"
        if self.fault is None:
            self.fault_since_s = time.monotonic()
        self.fault = str(error)
        self._faults.warning("the queue %s takes nothing, events wait in memory: %s", self.path, error)
        if self._file is not None and type(error) is sqlite3.DatabaseError:
            self._file.close()  # damaged: opening it again sets it aside
            self._file = None
        for row in list(islice(self._memory.values(), max(0, len(self._memory) - MOST_IN_MEMORY))):
            self._remove(row, fault)


def _silent() -> None:
    pass

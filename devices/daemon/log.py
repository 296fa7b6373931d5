"""What the daemon says while it runs: lines for people, or JSON lines under systemd; a repeated one is counted."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone

from edgernn.devices.daemon.seldom import CALM_S, Spacing
from edgernn.text import without_passwords

__all__ = ["Repeats", "logged"]

BURST, MOST_KINDS, MOST_A_MINUTE = 5, 256, 100


@contextlib.contextmanager
def logged(form: str, level: str) -> Iterator[None]:
    """Send what is logged to standard error, as long as it is entered; `form` is "auto", "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = form == "json" or (form == "auto" and _is_journal())
    handler.setFormatter(_Json() if as_json else _Text())
    handler.addFilter(Repeats())
    root = logging.getLogger("edgernn")
    before = root.handlers[:], root.level, root.propagate
    root.handlers[:], root.propagate = [handler], False
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.handlers[:], level_before, root.propagate = before
        root.setLevel(level_before)


def _is_journal() -> bool:
    """Whether standard error goes to systemd's journal, by the device and inode that it names."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Repeats(logging.Filter):
    """Lets the first lines of a kind pass, later ones ever more seldom, and says with those how many were left out.

    Of one kind are lines with the same words and the same first value, which is what they are about. Of all kinds
    together, no more than `MOST_A_MINUTE` pass.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[object, Spacing] = {}
        self._minute, self._passed = 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line passes; called by one thread at a time, under the handler's lock."""
        about = record.args[0] if isinstance(record.args, tuple) and record.args else None
        kind = (record.name, record.levelno, record.msg, str(about))
        spacing = self._kinds[kind] = self._kinds.pop(kind) if kind in self._kinds else Spacing(BURST, CALM_S)
        if len(self._kinds) > MOST_KINDS:
            del self._kinds[next(iter(self._kinds))]
        if not (spacing.due(now := self._clock()) and self._has_room(int(now // 60))):
            spacing.left_out += 1
            return False
        record.__dict__["left_out"], spacing.left_out = spacing.left_out, 0
        return True

    def _has_room(self, minute: int) -> bool:
        self._passed = self._passed + 1 if minute == self._minute else 1
        self._minute = minute
        return self._passed <= MOST_A_MINUTE


def _words(record: logging.LogRecord) -> str:
    left_out = getattr(record, "left_out", 0)
    more = f" (and {left_out:,} like this that were not logged)" if left_out else ""
    return without_passwords(record.getMessage()) + more


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time_ = datetime.fromtimestamp(record.created).isoformat(sep=" ", timespec="milliseconds")
        trace = f"\n{without_passwords(self.formatException(record.exc_info))}" if record.exc_info else ""
        return f"{time_} {record.levelname.lower():<7} {_words(record)}{trace}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _words(record),
        }
        if record.exc_info:
            line["trace"] = without_passwords(self.formatException(record.exc_info))
        return json.dumps(line)

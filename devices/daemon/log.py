"""What the daemon says while it runs: lines for people, or JSON lines under systemd; a repeated one is counted."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone

__all__ = ["Repeats", "set_up_log"]

BURST, WINDOW_S, MOST_KEYS = 5, 60.0, 256


def set_up_log(form: str, level: str) -> None:
    """Send what is logged to standard error; `form` is "auto", "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = form == "json" or (form == "auto" and _is_journal())
    handler.setFormatter(_Json() if as_json else _Text())
    handler.addFilter(Repeats())
    root = logging.getLogger("edgernn")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False


def _is_journal() -> bool:
    """Whether standard error goes to systemd's journal, by the device and inode that it names."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Repeats(logging.Filter):
    """Lets a few lines of a kind pass in a minute, and says with the next one how many were left out.

    Of one kind are lines with the same words and the same first value, which is what they are about.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[object, tuple[float, int, int]] = {}  # begin of the window, passed, left out

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line passes; called by one thread at a time, under the handler's lock."""
        about = record.args[0] if isinstance(record.args, tuple) and record.args else None
        kind = (record.name, record.levelno, record.msg, str(about))
        now = self._clock()
        begin, passed, left_out = self._kinds.pop(kind, (now, 0, 0))
        if now - begin >= WINDOW_S:
            begin, passed = now, 0
        passes = passed < BURST
        if passes:
            record.__dict__["left_out"] = left_out
        passed, left_out = (passed + 1, 0) if passes else (passed, left_out + 1)
        self._kinds[kind] = begin, passed, left_out
        if len(self._kinds) > MOST_KEYS:
            del self._kinds[next(iter(self._kinds))]
        return passes


def _words(record: logging.LogRecord) -> str:
    left_out = getattr(record, "left_out", 0)
    return record.getMessage() + (f" (and {left_out} like this that were not logged)" if left_out else "")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time_ = datetime.fromtimestamp(record.created).isoformat(sep=" ", timespec="milliseconds")
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
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
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)

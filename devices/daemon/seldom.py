"""Log lines that repeat, kept few: what fails once may fail a thousand times in an hour."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["Seldom"]


class Seldom:
    """Warnings of one kind: the first is logged, and then no more than one in `every_s` seconds."""

    def __init__(self, log: logging.Logger, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._every_s, self._clock = log, every_s, clock
        self._next_s = -float("inf")
        self._left_out = 0

    def warning(self, text: str, *values: object) -> bool:
        """Log a warning, or count it; return whether it was logged."""
        if self._clock() < self._next_s:
            self._left_out += 1
            return False
        more = f" (and {self._left_out} like this one since the last)" if self._left_out else ""
        self._log.warning(f"{text}%s", *values, more)
        self._next_s, self._left_out = self._clock() + self._every_s, 0
        return True

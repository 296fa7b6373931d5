"""Log lines that repeat, kept few: what fails once may fail a thousand times in an hour, for a month."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["CALM_S", "Seldom", "Spacing"]

FIRST_S, LONGEST_S = 60.0, 86400.0
GROWTH = 9  # of the time it has gone on: lines after 1, 10, 100 and 1,000 minutes, and then once a day
CALM_S = 600.0


class Spacing:
    """When something that goes on and on is worth a line: some times at first, then ever more seldom.

    A thing that goes on for a month is worth about 35 lines. If it does not happen for `calm_s`, it begins anew.

    >>> spacing = Spacing()
    >>> [second for second in range(8000) if spacing.due(second)]
    [0, 60, 600, 6000]
    """

    def __init__(self, burst: int = 1, calm_s: float = float("inf")) -> None:
        self.times = 0
        """How often it happened since it began."""
        self.left_out = 0
        """How often it happened since the last line."""
        self.begin_s = 0.0
        self._burst, self._calm_s = burst, calm_s
        self._told, self._last_s, self._next_s = 0, 0.0, 0.0

    def due(self, now_s: float) -> bool:
        """Count it once more, and tell whether that is worth a line; `left_out` is then of before."""
        if not self.times or now_s - self._last_s > self._calm_s:
            self.times, self._told, self.begin_s, self._next_s = 0, 0, now_s, now_s + FIRST_S
        self.times, self._last_s = self.times + 1, now_s
        if self._told >= self._burst:
            if now_s < self._next_s:
                return False
            self._next_s = now_s + min(max(FIRST_S, GROWTH * (now_s - self.begin_s)), LONGEST_S)
        self._told += 1
        return True


class Seldom:
    """Warnings about one thing that goes wrong, until it is over."""

    def __init__(
        self, log: logging.Logger, calm_s: float = float("inf"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._calm_s, self._clock = log, calm_s, clock
        self._spacing = Spacing(calm_s=calm_s)

    def warning(self, text: str, *values: object) -> None:
        """Log a warning, or count it."""
        spacing = self._spacing
        if not spacing.due(self._clock()):
            spacing.left_out += 1
            return
        more = f" (and {spacing.left_out:,} like this one since the last)" if spacing.left_out else ""
        self._log.warning(f"{text}%s", *values, more)
        spacing.left_out = 0

    def over(self, text: str, *values: object) -> None:
        """Say that it is over, if it went wrong at all: for how long, and how often."""
        spacing, self._spacing = self._spacing, Spacing(calm_s=self._calm_s)
        if spacing.times:
            tries = "1 try" if spacing.times == 1 else f"{spacing.times:,} tries"
            self._log.info(f"{text} after %s, %s", *values, _duration(self._clock() - spacing.begin_s), tries)


def _duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> [_duration(seconds) for seconds in (0.31, 59, 600, 10800, 200_000, 2_600_000)]
    ['0.3 s', '59.0 s', '10 min', '3 h', '56 h', '30 days']
    """
    for unit, length, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 100)):
        if seconds < most * length:
            return f"{seconds / length:.1f} {unit}" if length == 1 else f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"

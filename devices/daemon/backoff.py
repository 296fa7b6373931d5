"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random

__all__ = ["Backoff"]

FIRST_S = 0.1
LONGEST_S = 4.0  # so that, with the time that opening takes, all is well again 5 seconds after a fault has ended


class Backoff:
    """Waits that double from 0.1 to 4 seconds, each cut by up to a half at random, so that many do not try together.

    >>> backoff = Backoff(random.Random(0))
    >>> [round(backoff.next_s(), 2) for _ in range(8)]
    [0.09, 0.18, 0.28, 0.5, 1.21, 2.25, 3.57, 2.61]
    >>> backoff.reset()
    >>> round(backoff.next_s(), 2)
    0.07
    """

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        self._failures = 0

    def next_s(self) -> float:
        """Return the seconds to wait after one more failure."""
        wait = min(LONGEST_S, FIRST_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return float(wait * self._chance.uniform(0.5, 1.0))

    def reset(self) -> None:
        """Begin anew: it went well."""
        self._failures = 0

"""How often something took how long, in the same memory however often it was."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["Histogram"]

LEAST_US = 0.01
PER_OCTAVE = 64  # a bucket is 1.1 % wide
BUCKETS = 36 * PER_OCTAVE  # to eleven minutes; what is longer is put into the last one


class Histogram:
    """Counts in buckets whose width grows with the time; a quantile is within 0.6 % of the true one.

    >>> histogram = Histogram()
    >>> for us in range(1, 1001):
    ...     histogram.add(us)
    >>> round(histogram.quantile(0.5)), histogram.count, histogram.highest  # half of them are 500 or less
    (503, 1000, 1000)
    """

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS  # a list: an element of an array costs three times as much to count up
        self.count = 0
        self.highest = 0.0

    def add(self, us: float) -> None:
        """Count one time, microseconds."""
        index = int(math.log2(us / LEAST_US) * PER_OCTAVE) if us > LEAST_US else 0
        self._counts[min(index, BUCKETS - 1)] += 1
        self.count += 1
        if us > self.highest:
            self.highest = us

    def quantile(self, share: float) -> float:
        """Return the smallest time that so large a share does not exceed: the middle of its bucket; 0 of nothing."""
        if not self.count:
            return 0.0
        rank = max(1, math.ceil(share * self.count))
        index = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(LEAST_US * 2 ** ((index + 0.5) / PER_OCTAVE), self.highest)

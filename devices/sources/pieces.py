"""How much of a live source is heard at once: the more, the fewer wake-ups, each of which finds cold caches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["CHUNK_MS", "Pieces", "Stepping"]

CHUNK_MS = 40.0


class Stepping(Protocol):
    """What is to be known of a stream."""

    rate_hz: float

    @property
    def step_samples(self) -> int:
        """Samples from one step of the model to the next."""

    @property
    def first_samples(self) -> int:
        """Samples that the first step takes."""


@dataclass(frozen=True)
class Pieces:
    """Samples or frames that come together, counted from where the source begins.

    >>> Pieces(240, 640).missing(0), Pieces(240, 640).missing(240), Pieces(240, 640).missing(1000)
    (240, 640, 520)
    """

    first: int = 1
    each: int = 1
    together: Callable[[], int] = field(default=lambda: 1, compare=False)
    """How many of them may come at once, just now."""

    @classmethod
    def of(cls, stream: Stepping, longest_ms: float = CHUNK_MS, quiet: Callable[[], int] = lambda: 0) -> Pieces:
        """Return pieces that end where steps do, so that none waits for a sample that it does not need.

        They have as many steps as fit into `longest_ms`; a step that is longer is cut evenly. `quiet` tells in how many
        samples from now the next event can be decided at the earliest: so many pieces come at once.
        """
        step, most = stream.step_samples, max(1, int(longest_ms / 1000 * stream.rate_hz))
        if step <= most:
            each = most // step * step
            return cls(stream.first_samples % each or each, each, lambda: max(1, quiet() // each))
        each = step // next(parts for parts in range(math.ceil(step / most), step + 1) if step % parts == 0)
        return cls(stream.first_samples % each or each, each)

    def at(self, rate_hz: float, input_hz: float) -> Pieces:
        """Return them for a source of another rate, which is resampled."""
        if rate_hz == input_hz:
            return self
        first, each = (max(1, round(count * input_hz / rate_hz)) for count in (self.first, self.each))
        return Pieces(first, each, self.together)

    def missing(self, position: int) -> int:
        """Return how many are missing up to the end of what comes at once, after so many."""
        beyond = position - self.first
        return (self.together() - 1) * self.each + (-beyond if beyond < 0 else self.each - beyond % self.each)

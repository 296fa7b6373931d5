"""Around the moment when a new stream takes over from an old one: which events count?

The new one was warmed up with the latest sound, and may decide a word a little earlier or later than the old one. A
word that both decide counts once, whichever was first; one that only the new one has, shortly before, is not lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from edgernn.events import Event

__all__ = ["Handover"]

SPREAD_S = 0.5  # how far apart two models decide the same word


class Handover:
    """Keeps what was told lately."""

    def __init__(self) -> None:
        self._told: deque[Event] = deque(maxlen=16)
        self._until_s = -float("inf")

    def told(self, event: Event) -> None:
        """Remember an event that went out."""
        self._told.append(event)

    def missed(self, replayed: Sequence[Event], now_s: float) -> list[Event]:
        """Take what the new stream decided while it was warmed up, until now; return what the old one had not yet."""
        self._until_s = now_s + SPREAD_S
        return [event for event in replayed if event.end_s > now_s - SPREAD_S and not self.is_repeat(event)]

    def is_repeat(self, event: Event) -> bool:
        """Tell whether an event is one that the old stream had decided before the new one took over."""
        if event.end_s > self._until_s:
            return False
        return any(old.label == event.label and abs(old.end_s - event.end_s) <= SPREAD_S for old in self._told)

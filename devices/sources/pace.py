"""When the samples of a live source will be there: until then, its reader sleeps.

Who waits for whatever comes is woken for each few milliseconds that a program or a device hands over. Each of these
wake-ups finds cold caches, and together they cost as much as hearing what came.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Pace"]

MOST_S = 0.2  # at once: who closes the source waits for it
SOONER_S, LATER_S = 0.0001, 0.001
AHEAD_S = 0.01  # what a source at its own pace may hand over before its time, now and then


class Pace:
    """Sleeps until samples should be there, and learns from each time how soon they come.

    A sample is expected at the soonest moment that agrees with all that came. Who found samples there looks for the
    next ones a little sooner; who had to wait, a little later: so a source that paused, or is a little slower than its
    rate, is followed. One that was just ahead of it, such as a file through a pipe, is not slept for.
    """

    def __init__(
        self,
        rate_hz: float,
        slack_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the rate, and how long samples may lie there, so that one mostly wakes once and finds all of them."""
        self._rate_hz, self._slack_s = rate_hz, slack_s
        self._clock, self._sleep = clock, sleep
        self._begin_s = math.inf  # sample `n` is there `n / rate_hz` later
        self._latest_s = math.inf  # the same, as it was for what came last
        self._ahead = True

    def wait_for(self, count: int) -> None:
        """Sleep until so many samples, of all, should be there."""
        if self._ahead:
            return
        left_s = self._begin_s + count / self._rate_hz + self._slack_s - self._clock()
        if left_s > 0:
            self._sleep(min(left_s, MOST_S))

    def came(self, count: int, time_s: float, waited: bool) -> None:
        """Note that so many samples, of all, were there at that time, and whether one had to wait for the last."""
        soonest_s = time_s - count / self._rate_hz
        self._ahead = soonest_s < self._begin_s - AHEAD_S
        catches_up = soonest_s < self._latest_s - AHEAD_S  # after a pause: it will be as soon as before
        self._latest_s = soonest_s
        self._begin_s = min(soonest_s, self._begin_s + (LATER_S if waited and not catches_up else -SOONER_S))

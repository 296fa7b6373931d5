"""What a daemon counts: plain numbers, each written by one thread, and read by any other without a lock.

A reader may find two numbers of different moments; each by itself is whole, and none ever goes back.
"""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgernn.devices.daemon.delivery import Delivery
from edgernn.devices.daemon.outbox import Outbox
from edgernn.devices.daemon.wake_counters import WakeCounters
from edgernn.events import Message
from edgernn.stream import Chunk

__all__ = ["STATES", "Counters", "DaemonCounters", "Histogram"]

STEP_BOUNDS_S = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SCORES = 300  # half a minute
RECENT = 100
TAPPED = 64
STATES = ("starting", "running", "reopening", "ended", "failed")


class Histogram:
    """How often something took how long, in the form of Prometheus.

    >>> histogram = Histogram((0.1, 1.0))
    >>> for seconds in (0.05, 0.1, 0.3, 7):
    ...     histogram.observe(seconds)
    >>> histogram.counts, histogram.total
    ([2, 1, 1], 4)
    """

    def __init__(self, bounds_s: tuple[float, ...] = BOUNDS_S) -> None:
        self.bounds_s = bounds_s
        """Upper bounds, inclusive; above the last one is a bucket more."""
        self.counts = [0] * (len(bounds_s) + 1)
        """In each bucket alone, not cumulative."""
        self.sum_s = 0.0

    @property
    def total(self) -> int:
        """How many were observed."""
        return sum(self.counts)

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds


class Counters:
    """What one pipeline does; written by its thread."""

    def __init__(self, name: str, labels: tuple[str, ...] = ()) -> None:
        self.name = name
        self.labels = labels
        """What each element of a row of `scores` stands for."""
        self.artifact = self.runtime = ""
        self.digest = ""
        """SHA-256 of the artifact's manifest, which holds those of its files."""
        self.thresholds: Mapping[str, float] = {}
        """Of each word that is told."""
        self._state = "starting"
        self.state_since_s = time.monotonic()
        """Since when it is so, on the monotonic clock."""
        self.error = ""
        """What went wrong last; stays when it is well again."""
        self.chunks = self.samples = self.frames = self.steps = 0
        self.busy_s = 0.0
        """Seconds that computing took."""
        self.dropped: Counter[str] = Counter()
        """Samples not heard: "lost" by the source, "late" and skipped, "gap" while it was gone, "malformed"."""
        self.malformed: tuple[float, str] | None = None
        """Since when all that the source gives is malformed, on the monotonic clock, and why; None while it is not."""
        self.resets = 0
        """Gaps that were too long to be filled, after which the state began anew."""
        self.reopened = 0
        """Times that the source was opened again."""
        self.failures: Counter[str] = Counter()
        """By cause: the source "failed", "stalled" or was "unopened"; the runtime failed in a "step"."""
        self.reloads = 0
        """Times that a new artifact or decoder took over."""
        self.deadline_misses = 0
        """Chunks that took longer to compute than to say."""
        self.latency = Histogram()
        """From when a chunk's last sample was there until its events were in the outbox."""
        self.compute = Histogram()
        """Computing of a chunk."""
        self.step = Histogram(STEP_BOUNDS_S)
        """One step of the model."""
        self.words: Counter[str] = Counter()
        """Events by word."""
        self.shown = True
        """Whether anybody can see level and scores, which are noted only then."""
        self.level = 0.0
        """Root mean square of a chunk of the latest tenth of a second, full scale is 1."""
        self.scores: deque[tuple[float, float, NDArray[np.float32]]] = deque(maxlen=SCORES)
        """Ten times a second: monotonic time, level, and averaged scores `(labels,)`."""
        self.recent: deque[Message] = deque(maxlen=RECENT)
        """The latest events."""
        self.is_sound = True
        """Whether samples come, and no frames of a sensor."""
        self.rate_hz: float = 0
        """Samples per second."""
        self.taps: tuple[deque[Chunk], ...] = ()
        """Where the latest chunks go while somebody looks; replaced as a whole."""
        self._lock = threading.Lock()  # around who looks
        self.progress_s = time.monotonic()
        """When frames were processed last, or the source was tried again, on the monotonic clock."""

    @property
    def state(self) -> str:
        """One of `STATES`; "reopening" means that its source failed or stalled."""
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        if state != self._state:
            self.state_since_s, self._state = time.monotonic(), state

    @contextlib.contextmanager
    def tapped(self) -> Iterator[deque[Chunk]]:
        """Give a queue of the latest chunks, into which they go until it is left; nothing is kept for nobody."""
        tap: deque[Chunk] = deque(maxlen=TAPPED)
        with self._lock:
            self.taps = (*self.taps, tap)
        try:
            yield tap
        finally:
            with self._lock:
                self.taps = tuple(other for other in self.taps if other is not tap)


class DaemonCounters:
    """All of a daemon, as `/metrics`, `/health` and the live page show it; its dictionaries are replaced as wholes."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.pipelines: Mapping[str, Counters] = {}
        self.sinks: Mapping[str, Delivery] = {}
        self.wake: WakeCounters | None = None
        """Of the wake-word server, where there is one."""
        self.outbox: Outbox | None = None
        self.ready = False
        """Whether all that was configured is open."""
        self.healthy = False
        """Whether every pipeline made progress within its limit; what the watchdog is fed by."""
        self.tended_s = self.started_s
        """When the main thread last looked after the pipelines."""
        self.reloads = self.refused_reloads = 0
        self.refused_artifacts: Counter[str] = Counter()
        """By pipeline: how often the last good artifact went on, since something was wrong with the one configured."""
        self.unfit_artifacts: Mapping[str, tuple[float, str]] = {}
        """By pipeline, whose last good artifact goes on: since when, on the monotonic clock, and why."""

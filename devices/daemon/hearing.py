"""How a pipeline hears: each chunk through the stream, its events into the outbox, all of it counted.

A chunk that comes too late is skipped, and what is missing is told to the stream, so that its clock stays true. Another
stream can take over between two chunks.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edgernn.devices.daemon.config import PipelineConfig
from edgernn.devices.daemon.counters import Counters
from edgernn.devices.daemon.handover import Handover
from edgernn.devices.daemon.prepare import Prepared
from edgernn.devices.daemon.seldom import CALM_S, Seldom
from edgernn.errors import EdgeRNNError, ShapeError
from edgernn.event_stream import EventStream
from edgernn.events import Event, Message
from edgernn.stream import Chunk
from edgernn.text import one_line

__all__ = ["Hearing"]

LOOK_S = 0.1  # how often level and scores are noted: it costs as much as a step
CAUGHT_UP = 0.1  # of `late_s`: how late a chunk may be after others were skipped

_log = logging.getLogger(__name__)


class Hearing:
    """Hears chunk after chunk, in one thread at a time; what it does shows in its `counters`."""

    def __init__(
        self,
        prepared: Prepared,
        put: Callable[[PipelineConfig, Event], Message],
        counters: Counters,
        clock: Callable[[], float],
        lock: threading.Lock,
    ) -> None:
        self.prepared = prepared
        """What it hears with."""
        self._put, self._counters, self._clock = put, counters, clock
        self._lock = lock  # around what it goes on with
        self._next: Prepared | None = None
        self._handover, self._malformed = Handover(), Seldom(_log, CALM_S)
        self._recent: deque[tuple[NDArray[np.float32], int]] = deque()
        self._recent_samples = 0
        self._late = False  # whether the latest chunk was
        self._skipped = 0  # samples since the last chunk that was heard, late or malformed
        self._came_until_s: float | None = None
        self._look_s = 0.0
        counters.malformed = None
        self._adopt(prepared)

    def take_over(self, prepared: Prepared) -> None:
        """Have another stream go on from the next chunk, or another configuration; the source stays open."""
        with self._lock:
            if prepared.stream is self.prepared.stream:
                self.prepared = prepared
            else:
                self._next = prepared

    @property
    def latest(self) -> Prepared:
        """What it goes on with from the next chunk."""
        return self._next or self.prepared

    def hear(self, chunk: Chunk, reopened: bool, remark: str) -> bool:
        """Hear a chunk; return whether its source is well: it gave something to hear, or has rightly nothing.

        `reopened`: it is the first chunk of a source that was gone meanwhile. `remark`: what the source says of what it
        could not read.
        """
        begin, counters, config = self._clock(), self._counters, self.prepared.config
        if (fresh := self._next) is not None:
            self._change(fresh)
        if chunk.lost or chunk.dropped:
            counters.dropped.update(chunk.causes)
            self._tell_malformed(chunk, one_line(remark))
        lost = chunk.lost + self._skipped
        if reopened:
            lost += self._gap(chunk)
        self._came_until_s = chunk.time_s
        was_late = self._late
        self._late = begin - chunk.time_s > config.late_s * (CAUGHT_UP if was_late else 1)
        if self._late:
            counters.dropped["late"] += len(chunk.samples)
            self._skipped = lost + len(chunk.samples)
            if not was_late:
                _log.warning("%s: %.1f s late: skips until it has caught up", counters.name, begin - chunk.time_s)
            return False
        self._skipped = 0
        if not self._push(self.prepared.stream, chunk, lost):
            return False
        self._count(chunk, begin)
        return len(chunk.samples) > 0 or chunk.idle

    def _tell_malformed(self, chunk: Chunk, why: str) -> None:
        """Say why nothing comes of a source that is well: what it gives is not what the model takes."""
        if count := chunk.causes.get("malformed", 0):
            if not len(chunk.samples):
                self._note_malformed(why)
            self._malformed.warning(
                "%s: what the source gives is malformed, %d at once%s",
                self._counters.name,
                count,
                f": {why}" if why else "",
            )

    def _note_malformed(self, why: str) -> None:
        counters = self._counters
        since_s = counters.malformed[0] if counters.malformed else time.monotonic()
        counters.malformed = since_s, f"all that comes is malformed{f': {why}' if why else ''}"
        counters.progress_s = self._clock()  # it listens, and another beginning would mend nothing

    def _gap(self, chunk: Chunk) -> int:
        """Return how many samples did not come while the source was gone."""
        rate_hz, gap = self.prepared.stream.rate_hz, 0
        if self._came_until_s is not None:
            gap = max(0, round((chunk.time_s - self._came_until_s) * rate_hz) - len(chunk.samples) - chunk.lost)
        self._counters.dropped["gap"] += gap
        return gap

    def _push(self, stream: EventStream, chunk: Chunk, lost: int) -> bool:
        """Hear one chunk; return whether that went well."""
        try:
            events = stream.push(chunk.samples, lost)
        except ShapeError as error:
            self._counters.dropped["malformed"] += len(chunk.samples)
            self._note_malformed(str(error))
            self._skipped += len(chunk.samples)
            _log.warning("%s: what the source gave is skipped: %s", self._counters.name, error)
            return False
        except EdgeRNNError as error:
            self._counters.failures["step"] += 1
            self._counters.error = str(error)
            _log.error("%s: begins anew: %s", self._counters.name, error)
            stream.reset(stream.clock_samples)
            return False
        if len(chunk.samples) or chunk.idle:
            self._counters.progress_s = self._clock()
        if len(chunk.samples):
            self._counters.malformed = None
        if stream.dropped:
            self._counters.dropped.update(stream.dropped)
            stream.dropped.clear()
        self._keep(chunk.samples, lost)
        for event in events:
            self._tell(event)
        return True

    def _tell(self, event: Event) -> None:
        if self._handover.is_repeat(event):
            return
        self._handover.told(event)
        message = self._put(self.prepared.config, event)
        self._counters.words[event.label] += 1
        self._counters.recent.append(message)

    def _keep(self, samples: NDArray[np.float32], lost: int) -> None:
        """Keep the latest sound, for a stream that takes over."""
        if not len(samples) + lost:  # an idle source gives nothing, for months
            return
        self._recent.append((samples, lost))
        self._recent_samples += len(samples) + lost
        most = self.prepared.config.replay_s * self.prepared.stream.rate_hz
        while self._recent and self._recent_samples - _span(self._recent[0]) >= most:
            self._recent_samples -= _span(self._recent.popleft())

    def _change(self, fresh: Prepared) -> None:
        """Let the next stream take over, warmed up with the latest sound; one that fails at that does not."""
        old, stream = self.prepared.stream, fresh.stream
        try:
            replayed = self._warm_up(stream)
        except EdgeRNNError as error:
            with self._lock:
                if self._next is not None and self._next.stream is stream:
                    self._next = None
            self._counters.failures["step"] += 1
            _log.error("%s: %s cannot take over: %s", self._counters.name, fresh.artifact.name, error)
            stream.runner.close()
            return
        with self._lock:
            if self._next is not None and self._next.stream is stream:  # else yet another one came meanwhile
                fresh, self._next = self._next, None
            self._adopt(fresh)
        for event in self._handover.missed(replayed, stream.clock_samples / stream.rate_hz):
            self._tell(event)
        old.runner.close()
        self._counters.reloads += 1
        _log.info("%s: %s has taken over", self._counters.name, fresh.artifact.name)

    def _warm_up(self, stream: EventStream) -> list[Event]:
        """Bring a stream where the one that runs is; return what it decided on the way."""
        replayed: list[Event] = []
        first_lost = self._recent[0][1] if self._recent else 0
        stream.reset(self.prepared.stream.clock_samples - self._recent_samples + first_lost)
        for number, (samples, lost) in enumerate(self._recent):
            with contextlib.suppress(ShapeError):
                replayed += stream.push(samples, lost if number else 0)
        return replayed

    def _adopt(self, prepared: Prepared) -> None:
        self.prepared, stream = prepared, prepared.stream
        counters = self._counters
        labels = getattr(stream.decoder, "labels", prepared.artifact.labels)
        if counters.labels != labels:
            counters.scores.clear()  # its columns meant other words
        counters.labels, counters.artifact = labels, prepared.artifact.name
        counters.runtime, counters.digest = stream.runner.runtime, prepared.key.digest
        counters.rate_hz, counters.is_sound = stream.rate_hz, not stream.frame_shape
        counters.thresholds = getattr(stream.decoder, "thresholds", {})
        self._counted = counters.frames - stream.frames, counters.steps - stream.steps, counters.resets - stream.resets

    def _count(self, chunk: Chunk, begin: float) -> None:
        counters, stream, count = self._counters, self.prepared.stream, len(chunk.samples)
        (frames, steps, resets), steps_before = self._counted, counters.steps
        counters.state = "running"
        counters.chunks += 1
        counters.samples += count
        counters.frames, counters.steps = frames + stream.frames, steps + stream.steps
        counters.resets = resets + stream.resets
        for step_us in islice(reversed(stream.step_us), max(0, counters.steps - steps_before)):
            counters.step.observe(step_us / 1e6)
        for tap in counters.taps:
            tap.append(chunk)
        now = self._clock()
        counters.busy_s += now - begin
        counters.compute.observe(now - begin)
        counters.latency.observe(max(0.0, now - chunk.time_s))
        counters.deadline_misses += 0 < count / stream.rate_hz < now - begin
        if counters.shown and now >= self._look_s and count:
            self._look_s = now + LOOK_S
            self._look(chunk)

    def _look(self, chunk: Chunk) -> None:
        """Note level and scores, for whoever looks on."""
        counters, averages = self._counters, getattr(self.prepared.stream.decoder, "averages", None)
        counters.level = _level(chunk.samples)
        if averages is not None:
            counters.scores.append((chunk.time_s, counters.level, averages))


def _span(piece: tuple[NDArray[np.float32], int]) -> int:
    samples, lost = piece
    return len(samples) + lost


def _level(samples: NDArray[np.float32]) -> float:
    level = math.sqrt(np.vdot(samples, samples) / max(1, samples.size))
    return level if math.isfinite(level) else 0.0  # a sensor may give NaN

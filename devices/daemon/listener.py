"""One pipeline: a thread that brings what a source hears through a stream into the outbox, for months.

A source that fails is opened anew, after a while. One that stalls cannot be waited for, since no thread can be ended
from outside: it is left to itself, and another thread opens the source again (`Listener.tend`).
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

from edgernn.devices.daemon.backoff import Backoff
from edgernn.devices.daemon.config import PipelineConfig
from edgernn.devices.daemon.counters import Counters
from edgernn.devices.daemon.handover import Handover
from edgernn.devices.daemon.prepare import Prepared
from edgernn.devices.daemon.seldom import CALM_S, Seldom
from edgernn.errors import EdgeRNNError, NotThereError, ShapeError, UsageError
from edgernn.events import Event, Message
from edgernn.stream import Chunk, EventStream, Source
from edgernn.text import one_line

__all__ = ["Listener"]

MOST_HUNG = 4  # threads that wait for a source that will never answer
CLOSE_S = (
    0.5  # that a source may take to close, as some devices never do that are gone; after that it is left to itself
)
LOOK_S = 0.1  # how often level and scores are noted: it costs as much as a step
STEADY_S = 5.0  # how long a source must deliver before its next failure counts as a first one
SLOW_FRAMES = 10
CAUGHT_UP = 0.1  # of `late_s`: how late a chunk may be after others were skipped

_log = logging.getLogger(__name__)


class Listener:
    """Listens from `start` to `stop`; what it does shows in its `counters`."""

    def __init__(
        self,
        prepared: Prepared,
        open_source: Callable[[PipelineConfig, EventStream, Callable[[], int]], Source],
        put: Callable[[PipelineConfig, Event], Message],
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = counters
        self.prepared = prepared
        self.fatal: EdgeRNNError | None = None
        """Why the source could never be opened, where trying again is in vain."""
        self.opened = False
        """Whether the source was open once."""
        self._open_source, self._put, self._clock = open_source, put, clock
        self._lock = threading.Lock()  # around who owns the stream: the thread of the current turn
        self._turn = 0
        self._closing: list[threading.Thread] = []
        self._waiting_since: float | None = None  # for the source; None while computing or between two tries
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._backoff = Backoff()
        self._faults, self._malformed = Seldom(_log), Seldom(_log, CALM_S)
        self._source: Source | None = None
        self._next: Prepared | None = None
        self._handover = Handover()
        self._recent: deque[tuple[NDArray[np.float32], int]] = deque()
        self._recent_samples = 0
        self._late = False  # whether the latest chunk was
        self._skipped = 0  # samples since the last chunk that was heard, late or malformed
        self._opened_s = self._look_s = 0.0
        self._came_until_s: float | None = None
        self._reopened = False
        counters.state, counters.malformed = "starting", None
        self._adopt(prepared)

    def _adopt(self, prepared: Prepared) -> None:
        self.prepared, stream = prepared, prepared.stream
        counters = self.counters
        labels = getattr(stream.decoder, "labels", prepared.artifact.labels)
        if counters.labels != labels:
            counters.scores.clear()  # its columns meant other words
        counters.labels, counters.artifact = labels, prepared.artifact.name
        counters.runtime, counters.digest = stream.runner.runtime, prepared.key.digest
        counters.rate_hz = stream.rate_hz
        counters.thresholds = getattr(stream.decoder, "thresholds", {})
        self._counted = counters.frames - stream.frames, counters.steps - stream.steps, counters.resets - stream.resets

    def start(self) -> None:
        """Begin, in a thread of its own."""
        with self._lock:
            self._turn += 1
            name = f"pipeline {self.counters.name}"
            thread = threading.Thread(target=self._run, args=(self._turn,), name=name, daemon=True)
            self._threads = [*(old for old in self._threads if old.is_alive()), thread]
        thread.start()

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

    def stop(self) -> None:
        """Begin to end: the source is closed, and the thread goes when it notices. Waits for neither."""
        with self._lock:
            self._stopping.set()
            source = self._source
        self._begin_to_close(source)

    def join(self, timeout_s: float) -> bool:
        """Wait until it has ended, and its source is closed; return whether that is so."""
        until_s = time.monotonic() + timeout_s
        threads = [*self._closing[-1:], self._threads[-1]]
        for thread in threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more."""
        return not self._threads[-1].is_alive()

    @property
    def limit_s(self) -> float:
        """How long it may be without progress before something is wrong that it cannot mend itself."""
        return self.stall_s + 10.0

    @property
    def stall_s(self) -> float:
        """How long the source may give nothing: as configured, but ten frames of a slow sensor at least; 0 for ever."""
        stall_s = self.prepared.config.stall_s
        return max(stall_s, SLOW_FRAMES / self.prepared.stream.rate_hz) if stall_s else 0.0

    def tend(self) -> bool:
        """Give up waiting for a source that stalls; return whether all is well. Called every now and then."""
        since, stall_s = self._waiting_since, self.stall_s
        if since is not None and stall_s and self._clock() - since > stall_s:
            self._give_up(since)
        if self.counters.state in ("ended", "failed") or (since is not None and not stall_s):
            return True  # nothing that another beginning would mend
        return self._clock() - self.counters.progress_s <= self.limit_s

    def _give_up(self, since: float) -> None:
        with self._lock:
            hung = max(sum(thread.is_alive() for thread in kind) for kind in (self._threads, self._closing))
            if self._waiting_since != since or hung > MOST_HUNG:
                return
            self._turn += 1  # from here on, the thread that waits owns nothing
            self._waiting_since = None
            source, self._source = self._source, None
        stalled = f"the source gave nothing for {self.stall_s:g} s"
        self._note("stalled" if source else "unopened", stalled)
        self._begin_to_close(source)
        self.start()

    def _begin_to_close(self, source: Source | None) -> threading.Thread | None:
        """Close a source in a thread of its own: that, too, may hang, in a device or for a server."""
        if source is None:
            return None
        thread = threading.Thread(target=self._close, args=(source,), name="closing", daemon=True)
        with self._lock:
            thread.start()
            self._closing = [*(old for old in self._closing if old.is_alive()), thread]
        return thread

    def _leave(self, source: Source | None) -> None:
        """Close a source and wait for that a while, or as long as it takes where several hang in it already."""
        thread = self._begin_to_close(source)
        if thread is not None:
            thread.join(CLOSE_S if len(self._closing) <= MOST_HUNG else None)

    def _close(self, source: Source | None) -> None:
        if source is not None:
            try:
                source.close()
            except Exception as error:
                _log.debug("%s: the source cannot be closed: %s", self.counters.name, one_line(error))

    def _note(self, cause: str, why: object) -> None:
        """Count a failure of the source, which will be opened again."""
        counters = self.counters
        counters.failures[cause] += 1
        counters.error = one_line(why if isinstance(why, (str, EdgeRNNError)) else f"{type(why).__name__}: {why}")
        counters.state, self._reopened = "reopening", True
        self._faults.warning("%s: the source is opened again: %s", counters.name, counters.error)

    def _run(self, turn: int) -> None:
        if self._reopened:
            self._stopping.wait(self._backoff.next_s())
        while not self._stopping.is_set():
            source = self._try_to_open(turn)
            if source is None and not self._owns(turn):
                return
            if source is not None and self._read(source, turn):
                return
            if self.fatal is not None:
                return
            self.counters.progress_s = self._clock()
            self._stopping.wait(self._backoff.next_s())

    def _owns(self, turn: int) -> bool:
        return turn == self._turn

    def _try_to_open(self, turn: int) -> Source | None:
        with self._lock:
            if not self._owns(turn):
                return None
            self.counters.progress_s = self._waiting_since = self._clock()
        try:
            source = self._open_source(self.prepared.config, self.prepared.stream, self._quiet)
        except Exception as error:
            with self._lock:
                if self._owns(turn):
                    self._waiting_since = None
                    self._unopened(error)
            return None
        with self._lock:
            if self._owns(turn) and not self._stopping.is_set():
                self._source, self._waiting_since = source, self._clock()
                self._opened_s, self.opened = self._waiting_since, True
                self.counters.reopened += self._reopened
                return source
        self._leave(source)
        return None

    def _quiet(self) -> int:
        """Return how many samples may be heard late, of whatever stream it is by now."""
        return self.prepared.stream.quiet_samples

    def _unopened(self, error: Exception) -> None:
        may_come = isinstance(error, NotThereError)  # such as the folder of a disk that is yet to be plugged in
        if isinstance(error, UsageError) and not may_come and not self.opened:
            self.fatal = error
            self.counters.state, self.counters.error = "failed", one_line(error)
            _log.error("%s: its source cannot be opened: %s", self.counters.name, error)
        else:
            self._note("unopened", error)

    def _read(self, source: Source, turn: int) -> bool:
        """Hear what comes until the source ends (return True) or fails (return False)."""
        failure: Exception | None = None
        try:
            for chunk in source:
                with self._lock:
                    if not self._owns(turn):
                        return True
                    self._waiting_since = None
                self._hear(chunk)
                self._waiting_since = self._clock()
        except Exception as error:
            failure = error
        with self._lock:
            if not self._owns(turn):
                return True
            self._waiting_since = self._source = None
        self._leave(source)
        if failure is not None and not self._stopping.is_set():
            self._note("failed", failure)
            return False
        self.counters.state = "ended"
        return True

    def _hear(self, chunk: Chunk) -> None:
        begin, counters, config = self._clock(), self.counters, self.prepared.config
        if (fresh := self._next) is not None:
            self._change(fresh)
        if chunk.lost or chunk.dropped:
            counters.dropped.update(chunk.causes)
            self._tell_malformed(chunk.causes.get("malformed", 0), not len(chunk.samples))
        lost = chunk.lost + self._skipped
        if self._reopened:
            lost += self._gap(chunk)
        self._came_until_s = chunk.time_s
        was_late = self._late
        self._late = begin - chunk.time_s > config.late_s * (CAUGHT_UP if was_late else 1)
        if self._late:
            counters.dropped["late"] += len(chunk.samples)
            self._skipped = lost + len(chunk.samples)
            if not was_late:
                _log.warning("%s: %.1f s late: skips until it has caught up", counters.name, begin - chunk.time_s)
            return
        self._skipped = 0
        if self._push(self.prepared.stream, chunk, lost):
            self._count(chunk, begin)

    def _tell_malformed(self, count: int, alone: bool) -> None:
        """Say why nothing comes of a source that is well: what it gives is not what the model takes."""
        if count:
            why = one_line(getattr(self._source, "remark", ""))
            if alone:
                self._note_malformed(why)
            self._malformed.warning(
                "%s: what the source gives is malformed, %d at once%s",
                self.counters.name,
                count,
                f": {why}" if why else "",
            )

    def _note_malformed(self, why: str) -> None:
        counters = self.counters
        since_s = counters.malformed[0] if counters.malformed else time.monotonic()
        counters.malformed = since_s, f"all that comes is malformed{f': {why}' if why else ''}"
        counters.progress_s = self._clock()  # it listens, and another beginning would mend nothing

    def _gap(self, chunk: Chunk) -> int:
        """Return how many samples did not come while the source was gone."""
        self._reopened = False
        rate_hz, gap = self.prepared.stream.rate_hz, 0
        if self._came_until_s is not None:
            gap = max(0, round((chunk.time_s - self._came_until_s) * rate_hz) - len(chunk.samples) - chunk.lost)
        self.counters.dropped["gap"] += gap
        self._faults.over("%s: the source is back", self.counters.name)
        return gap

    def _push(self, stream: EventStream, chunk: Chunk, lost: int) -> bool:
        """Hear one chunk; return whether that went well."""
        try:
            events = stream.push(chunk.samples, lost)
        except ShapeError as error:
            self.counters.dropped["malformed"] += len(chunk.samples)
            self._note_malformed(str(error))
            self._skipped += len(chunk.samples)
            _log.warning("%s: what the source gave is skipped: %s", self.counters.name, error)
            return False
        except EdgeRNNError as error:
            self.counters.failures["step"] += 1
            self.counters.error = str(error)
            _log.error("%s: begins anew: %s", self.counters.name, error)
            stream.reset(stream.clock_samples)
            return False
        if len(chunk.samples) or chunk.idle:
            self.counters.progress_s = now = self._clock()
            if now - self._opened_s > STEADY_S:
                self._backoff.reset()
        if len(chunk.samples):
            self.counters.malformed = None
        if stream.dropped:
            self.counters.dropped.update(stream.dropped)
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
        self.counters.words[event.label] += 1
        self.counters.recent.append(message)

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
            self.counters.failures["step"] += 1
            _log.error("%s: %s cannot take over: %s", self.counters.name, fresh.artifact.name, error)
            stream.runner.close()
            return
        with self._lock:
            if self._next is not None and self._next.stream is stream:  # else yet another one came meanwhile
                fresh, self._next = self._next, None
            self._adopt(fresh)
        for event in self._handover.missed(replayed, stream.clock_samples / stream.rate_hz):
            self._tell(event)
        old.runner.close()
        self.counters.reloads += 1
        _log.info("%s: %s has taken over", self.counters.name, fresh.artifact.name)

    def _warm_up(self, stream: EventStream) -> list[Event]:
        """Bring a stream where the one that runs is; return what it decided on the way."""
        replayed: list[Event] = []
        first_lost = self._recent[0][1] if self._recent else 0
        stream.reset(self.prepared.stream.clock_samples - self._recent_samples + first_lost)
        for number, (samples, lost) in enumerate(self._recent):
            with contextlib.suppress(ShapeError):
                replayed += stream.push(samples, lost if number else 0)
        return replayed

    def _count(self, chunk: Chunk, begin: float) -> None:
        counters, stream, count = self.counters, self.prepared.stream, len(chunk.samples)
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
        if now >= self._look_s and count:
            self._look_s = now + LOOK_S
            self._look(chunk)

    def _look(self, chunk: Chunk) -> None:
        """Note level and scores, for whoever looks on."""
        counters, averages = self.counters, getattr(self.prepared.stream.decoder, "averages", None)
        counters.level = _level(chunk.samples)
        if averages is not None:
            counters.scores.append((chunk.time_s, counters.level, averages))


def _span(piece: tuple[NDArray[np.float32], int]) -> int:
    samples, lost = piece
    return len(samples) + lost


def _level(samples: NDArray[np.float32]) -> float:
    level = math.sqrt(np.vdot(samples, samples) / max(1, samples.size))
    return level if math.isfinite(level) else 0.0  # a sensor may give NaN

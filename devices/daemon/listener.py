"""One pipeline: a thread that has what a source gives heard (`Hearing`), for months.

A source that fails is opened anew, after a while. One that stalls cannot be waited for, since no thread can be ended
from outside: it is left to itself, and another thread opens the source again (`Listener.tend`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edgernn.devices.daemon.backoff import Backoff
from edgernn.devices.daemon.config import PipelineConfig
from edgernn.devices.daemon.counters import Counters
from edgernn.devices.daemon.hearing import Hearing
from edgernn.devices.daemon.prepare import Prepared
from edgernn.devices.daemon.seldom import Seldom
from edgernn.errors import EdgeRNNError, NotThereError, SourceError, UsageError
from edgernn.event_stream import EventStream
from edgernn.events import Event, Message
from edgernn.stream import Chunk, Source
from edgernn.text import one_line

__all__ = ["OF_STALL", "Listener"]

MOST_HUNG = 4  # threads that wait for a source that will never answer
CLOSE_S = 0.5  # that a source may take to close, as some never do that are gone; then it is left to itself
STEADY_S = 5.0  # how long a source must deliver before its next failure counts as a first one
SLOW_FRAMES = 10
AT_ONCE_S = 0.5  # of what is heard together, at most: a page that looks on should not stand still
OF_STALL = 0.5  # of the time after which a source seems to stall: so long a piece may be waited for

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
        self.fatal: EdgeRNNError | None = None
        """Why nothing ever comes of the source, where trying again is in vain."""
        self.opened = False
        """Whether the source was open once."""
        self._open_source, self._clock = open_source, clock
        self._lock = threading.Lock()  # around who owns the stream: the thread of the current turn
        self.hearing = Hearing(prepared, put, counters, clock, self._lock)
        """Takes each chunk, and another stream at a reload."""
        self._turn = 0
        self._closing: list[threading.Thread] = []
        self._waiting_since: float | None = None  # for the source; None while computing or between two tries
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._backoff = Backoff()
        self._faults = Seldom(_log)
        self._source: Source | None = None
        self._opened_s = 0.0
        self._reopened = False
        counters.state = "starting"

    def start(self) -> None:
        """Begin, in a thread of its own."""
        with self._lock:
            self._turn += 1
            name = f"pipeline {self.counters.name}"
            thread = threading.Thread(target=self._run, args=(self._turn,), name=name, daemon=True)
            self._threads = [*(old for old in self._threads if old.is_alive()), thread]
        thread.start()

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
        stall_s = self.hearing.prepared.config.stall_s
        return max(stall_s, SLOW_FRAMES / self.hearing.prepared.stream.rate_hz) if stall_s else 0.0

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
        prepared = self.hearing.prepared
        try:
            source = self._open_source(prepared.config, prepared.stream, self._quiet)
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
        """Return how many samples may be heard late, of whatever stream it is by now: a second, for a long average."""
        stream = self.hearing.prepared.stream
        most_s = min(AT_ONCE_S, OF_STALL * self.stall_s or AT_ONCE_S)
        return min(stream.quiet_samples, int(most_s * stream.rate_hz))

    def _unopened(self, error: Exception) -> None:
        may_come = isinstance(error, NotThereError)  # such as the folder of a disk that is yet to be plugged in
        if isinstance(error, UsageError) and not may_come and not self.opened:
            self._fail(error, "opened")
        else:
            self._note("unopened", error)

    def _fail(self, error: EdgeRNNError, what: str) -> None:
        self.fatal = error
        self.counters.state, self.counters.error = "failed", one_line(error)
        _log.error("%s: its source cannot be %s: %s", self.counters.name, what, error)

    def _read(self, source: Source, turn: int) -> bool:
        """Hear what comes until the source ends (return True) or fails (return False)."""
        failure: Exception | None = None
        try:
            for chunk in source:
                with self._lock:
                    if not self._owns(turn):
                        return True
                    self._waiting_since = None
                self._hear(source, chunk)
                self._waiting_since = self._clock()
        except Exception as error:
            failure = error
        with self._lock:
            if not self._owns(turn):
                return True
            self._waiting_since = self._source = None
        self._leave(source)
        if failure is not None and not self._stopping.is_set():
            if isinstance(failure, SourceError) and failure.for_good:
                self._fail(failure, "heard")
            else:
                self._note("failed", failure)
            return False
        self.counters.state = "ended"
        return True

    def _hear(self, source: Source, chunk: Chunk) -> None:
        reopened, self._reopened = self._reopened, False
        if reopened:
            self._faults.over("%s: the source is back", self.counters.name)
        well = self.hearing.hear(chunk, reopened, getattr(source, "remark", ""))
        if well and self._clock() - self._opened_s > STEADY_S:
            self._backoff.reset()

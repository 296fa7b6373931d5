"""From the outbox to one sink: in order, at least once, for as long as it takes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edgernn.devices.daemon.backoff import Backoff
from edgernn.devices.daemon.outbox import Outbox
from edgernn.devices.daemon.seldom import CALM_S, Seldom
from edgernn.errors import EdgeRNNError, RefusedError, SinkError
from edgernn.stream import Sink
from edgernn.text import one_line

__all__ = ["Delivery"]

LONGEST_ASKED_S = 300.0  # that a receiver may ask to be left alone

LEFT_S = 5.0  # after which one that hangs is not waited for any more

_log = logging.getLogger(__name__)


class Delivery:
    """A thread that brings what waits for the sink `name` there.

    It begins once the one that was there before (`after`) has ended.
    A sink that fails is closed, and opened anew after a while (`Backoff`) or when it asked for that; what it refuses
    for ever is passed over.
    """

    def __init__(
        self,
        name: str,
        open_sink: Callable[[], Sink],
        outbox: Outbox,
        backoff: Backoff | None = None,
        after: Delivery | None = None,
    ) -> None:
        self.name = name
        self.delivered = 0
        self.refused = 0
        self.failures = 0
        """Attempts to open the sink, or to write to it, that failed."""
        self.fault: str | None = None
        """Why the sink takes nothing just now; None while all is well."""
        self.fault_since_s = 0.0
        """Since when, on the monotonic clock."""
        self._after = after
        self._open_sink, self._outbox = open_sink, outbox
        self._backoff = backoff or Backoff()
        self._sink: Sink | None = None
        self._rung = threading.Event()  # something was put, or the end has come
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._faults, self._refusals = Seldom(_log), Seldom(_log, CALM_S)
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)

    def start(self) -> None:
        """Begin: open the sink, and deliver what waits from earlier."""
        self._outbox.on_put(self.name, self._rung.set)
        self._thread.start()

    def stop(self, within_s: float = 1.5) -> int:
        """Deliver what waits, no longer than `within_s`, and end; return how many events stay in the outbox.

        A sink that is down, or fails now, is not waited for.
        """
        self.end(within_s)
        self._thread.join(within_s)
        left = self._outbox.depth(self.name)
        if left:
            _log.warning("%d events for the sink %s stay in the queue", left, self.name)
        return left

    def end(self, within_s: float) -> None:
        """Begin to stop, and wait for nothing; within 0 seconds, no further event is delivered."""
        self._deadline = time.monotonic() + within_s
        self._stopping.set()
        self._rung.set()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def overdue(self) -> bool:
        """Whether the time in which it had to end is over."""
        return time.monotonic() >= self._deadline

    def _run(self) -> None:
        if self._after is not None:
            self._after._thread.join(LEFT_S)
            self._after = None
        while not self._ended():
            self._rung.clear()
            try:
                self._deliver()
            except Exception as error:  # a sink of anyone's: whatever it raises, the thread goes on
                self._failed(error)
                if self._stopping.wait(self._pause_s(error)):
                    break
            else:
                if not self._stopping.is_set():
                    self._rung.wait()
        self._close()

    def _ended(self) -> bool:
        """Tell whether it is time to go: told to, and nothing waits any more or the time is over."""
        if not self._stopping.is_set():
            return False
        return time.monotonic() >= self._deadline or self._outbox.depth(self.name) == 0

    def _deliver(self) -> None:
        """Bring there what waits; one event at a time, so that a kill repeats no more than one."""
        if self._sink is None:
            self._sink = self._open_sink()
        while messages := self._outbox.take(self.name, 1):
            if time.monotonic() >= self._deadline:
                return
            try:
                self._sink.write(messages[0])
                self.delivered += 1
            except RefusedError as error:
                self.refused += 1
                self._refusals.warning("the sink %s refused the event %s: %s", self.name, messages[0].id, error)
            self._outbox.done(self.name, [messages[0].id])
            self._well()
        self._well()

    def _well(self) -> None:
        self._backoff.reset()
        self.fault = None
        self._faults.over("the sink %s is well again", self.name)

    def _failed(self, error: Exception) -> None:
        """Close the sink and note why; what was taken waits again."""
        self.failures += 1
        self._close()
        self._outbox.done(self.name, [])
        if self.fault is None:
            self.fault_since_s = time.monotonic()
        self.fault = one_line(error if isinstance(error, EdgeRNNError) else f"{type(error).__name__}: {error}")
        waiting = self._outbox.depth(self.name)
        self._faults.warning("the sink %s fails, %d events wait: %s", self.name, waiting, self.fault)

    def _pause_s(self, error: Exception) -> float:
        asked_s = error.wait_s if isinstance(error, SinkError) else 0.0
        return max(self._backoff.next_s(), min(asked_s, LONGEST_ASKED_S))

    def _close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            try:
                sink.close()
            except Exception as error:
                _log.debug("the sink %s cannot be closed: %s", self.name, error)

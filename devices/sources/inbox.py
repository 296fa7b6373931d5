"""Between the thread that receives and the one that reads: bounded, and what does not fit is counted."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgernn.devices.sources.pieces import Pieces
from edgernn.errors import EdgeRNNError, SourceError
from edgernn.stream import Chunk
from edgernn.text import one_line

__all__ = ["Inbox", "InboxSource"]

TELL_S = 1.0  # after so long, what was dropped is told without a sample to go with it
JOIN_S = 2.0
PATIENCE = 2.0  # how many times as long as a piece takes to come, its rest is waited for


class Inbox:
    """Holds at most so many samples or frames (but one chunk at least): the oldest make room for the newest."""

    def __init__(self, most: int, cause: str = "overflow", shape: tuple[int, ...] = ()) -> None:
        self._most, self._cause = most, cause
        self.remark = ""
        """What was wrong with what came last of all that was none."""
        self._changed = threading.Condition()
        self._chunks: deque[Chunk] = deque()
        self._held = 0
        self._lost, self._dropped = 0, Counter[str]()  # since the last chunk that was put
        self._empty = np.zeros((0, *shape), np.float32)
        self._latest_s = -float("inf")
        self._pieces, self._piece_s = Pieces(), 0.0
        self._taken, self._wanted = 0, 1
        self._error: EdgeRNNError | None = None
        self._ended = self._closed = False

    def gather(self, pieces: Pieces, rate_hz: float) -> None:
        """Let the reader sleep until a piece is there, or nothing came for longer than one takes."""
        self._pieces, self._piece_s = pieces, pieces.each / rate_hz

    def put(self, samples: NDArray[np.float32]) -> None:
        """Add samples `(n,)` or frames `(n, features...)` that are there just now."""
        with self._changed:
            self._chunks.append(self._chunk(samples))
            self._held += len(samples)
            while self._held > self._most and len(self._chunks) > 1:
                self._drop_oldest()
            if self._held >= self._wanted:
                self._changed.notify()

    def note(self, cause: str, count: int = 1, lost: int = 0, why: object = "") -> None:
        """Count what cannot be delivered, of which `lost` are missing in the stream."""
        with self._changed:
            self.remark = one_line(why) or self.remark
            self._dropped[cause] += count
            self._lost += lost

    def end(self, error: EdgeRNNError | None = None) -> None:
        """Let the reader end, or fail, when it has read what is there."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()

    def close(self) -> None:
        """Let the reader end now."""
        with self._changed:
            self._closed = True
            self._chunks.clear()
            self._changed.notify()

    def __iter__(self) -> Iterator[Chunk]:
        while (chunk := self._next()) is not None:
            yield chunk

    def _next(self) -> Chunk | None:
        with self._changed:
            self._wanted = min(self._pieces.missing(self._taken), self._most)
            patience_s = PATIENCE * self._piece_s or TELL_S
            while self._held < self._wanted and not (self._ended or self._closed):
                if self._changed.wait(patience_s):
                    continue
                if self._chunks:  # and the rest does not come
                    break
                self._wanted, patience_s = 1, TELL_S
                if self._dropped:
                    return replace(self._chunk(self._empty), idle=True)
            if self._closed:
                return None
            if self._chunks:
                return self._take()
            if self._error is not None:
                raise self._error
            return None

    def _take(self) -> Chunk:
        """Return what was wanted as one chunk; nothing is joined over a gap."""
        first = last = self._chunks.popleft()
        parts, count = [first.samples], len(first.samples)
        while count < self._wanted and self._chunks and not self._chunks[0].causes:
            last = self._chunks.popleft()
            parts.append(last.samples)
            count += len(last.samples)
        self._held -= count
        self._taken += count
        return first if last is first else replace(first, samples=np.concatenate(parts), time_s=last.time_s)

    def _chunk(self, samples: NDArray[np.float32]) -> Chunk:
        """Return a chunk with what was noted since the last one; its time never goes back."""
        self._latest_s = max(self._latest_s, time.monotonic())
        lost, dropped = self._lost, dict(self._dropped)
        self._lost, self._dropped = 0, Counter()
        return Chunk(samples, self._latest_s, lost, dropped)

    def _drop_oldest(self) -> None:
        oldest, second = self._chunks.popleft(), self._chunks.popleft()
        count = len(oldest.samples)
        self._held -= count
        dropped = Counter(oldest.causes) + Counter(second.causes)
        if count:
            dropped[self._cause] += count
        self._chunks.appendleft(replace(second, lost=oldest.lost + count + second.lost, dropped=dict(dropped)))


class InboxSource:
    """A source with a thread of its own that receives; for others to build on."""

    def __init__(
        self, name: str, rate_hz: float, most: int, cause: str = "overflow", shape: tuple[int, ...] = ()
    ) -> None:
        self.rate_hz = rate_hz
        self._name = name
        self._inbox = Inbox(most, cause, shape)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def _start(self, receive: Callable[[], None]) -> None:
        """Begin to receive; `receive` returns when `_closed` is set or nothing more comes, and raises what fails."""
        self._thread = threading.Thread(target=self._run, args=(receive,), name=self._name, daemon=True)
        self._thread.start()

    def _run(self, receive: Callable[[], None]) -> None:
        try:
            receive()
        except EdgeRNNError as error:
            self._inbox.end(error)
        except Exception as error:
            self._inbox.end(SourceError(f"{self._name} failed: {type(error).__name__}: {one_line(error)}"))
        else:
            self._inbox.end()

    @property
    def remark(self) -> str:
        """What was wrong with what was malformed, the latest of it."""
        return self._inbox.remark

    def gather(self, pieces: Pieces) -> None:
        """Deliver pieces of such a size, as long as they come in time."""
        self._inbox.gather(pieces, self.rate_hz)

    def _wake(self) -> None:
        """Have `receive` look whether it is closed, if there is a way."""

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self._inbox)

    def close(self) -> None:
        """Stop receiving, and end the iteration, also from another thread."""
        self._closed.set()
        self._inbox.close()
        self._wake()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_S)

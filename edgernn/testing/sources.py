"""The check that every source passes: its chunks and times, opening and closing, a slow reader, and faults."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from unittest import mock

import numpy as np

from edgernn.errors import SourceError
from edgernn.stream import Chunk, Source

__all__ = ["check_source"]

CLOSE_S = 1.0
BROKEN_CLOSE_S = 5.0
QUIET_S = 0.3  # how long is looked whether a source notices that its other side is gone


def check_source(
    open_source: Callable[[], Source],
    limit: int = 50,
    give: Callable[[], int] | None = None,
    flood: int = 0,
    most: int | None = None,
    break_: Callable[[], object] | None = None,
    mend: Callable[[], object] | None = None,
    within_s: float = 10.0,
) -> None:
    """Check a source; raise `AssertionError` where it breaks its protocol (`edgernn.stream.Source`).

    Its first `limit` chunks have one shape and type, and times that never go back, also when the wall clock is set
    back; it is opened again; closing ends it, also twice and while somebody waits for it.

    `give` makes the other side give a little, and returns how many samples or frames that is; without it, the source
    has some of its own. With a `flood` of so many gifts while nobody reads, each sample or frame is got or counted as
    lost, and at most `most` are kept. With `break_` and `mend`, which take the other side away and bring it back: the
    source says so (`SourceError`) or waits, and delivers again within `within_s`; if it failed, a new one does. It can
    also be closed meanwhile.

    >>> from edgernn.testing import ArraySource
    >>> check_source(lambda: ArraySource(np.zeros(640, np.float32)))
    """
    check = _Check(open_source, give, within_s)
    check.reads(limit)
    check.opens_again()
    check.closes_under_a_reader()
    if give and flood:
        check.floods(give, flood, most)
    if break_ and mend:
        for _ in range(2):
            check.fault(break_, mend)
        check.closes_while_broken(break_, mend)


class _Reader:
    """Reads a source in a thread, and looks at each chunk."""

    def __init__(self, source: Source, most_chunks: int | None = None) -> None:
        self.source = source
        self.chunks = self.got = self.lost = 0
        self.error: BaseException | None = None
        self.ended = False
        self._most_chunks = most_chunks
        self._shape: tuple[int, ...] | None = None
        self._latest_s = -np.inf
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for chunk in self.source:
                with self._changed:
                    self._look(chunk)
                    self._changed.notify_all()
                if self.chunks == self._most_chunks:
                    break
        except BaseException as error:
            self.error = error
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _look(self, chunk: Chunk) -> None:
        samples = chunk.samples
        assert samples.dtype == np.float32, f"the samples are {samples.dtype}, not float32"
        assert samples.ndim >= 1, f"the samples have shape {samples.shape}, not (n,) or (n, features...)"
        assert self._shape in (None, samples.shape[1:]), f"frames of {self._shape} are followed by {samples.shape[1:]}"
        assert chunk.lost >= 0, f"{chunk.lost} samples are lost"
        assert min(chunk.causes.values(), default=0) >= 0, f"one of the counts {dict(chunk.causes)} is below zero"
        assert not (chunk.idle and len(samples)), "a chunk with samples says that there are none to be had"
        assert chunk.time_s >= self._latest_s, "time runs backwards"
        self._shape, self._latest_s = samples.shape[1:], chunk.time_s
        self.chunks, self.got, self.lost = self.chunks + 1, self.got + len(samples), self.lost + chunk.lost

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition, or the end; return whether it holds. What was wrong with a chunk is raised."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or condition(), seconds)
            self.check()
            return condition()

    def check(self) -> None:
        if self.error is not None and not isinstance(self.error, SourceError):
            raise self.error


class _Check:
    def __init__(self, open_source: Callable[[], Source], give: Callable[[], int] | None, within_s: float) -> None:
        self._open, self._give, self._within_s = open_source, give, within_s

    def open(self) -> Source:
        source = self._open()
        assert source.rate_hz > 0, f"the rate is {source.rate_hz} Hz"
        return source

    def close(self, source: Source) -> None:
        source.close()
        source.close()
        reader = _Reader(source)
        assert reader.wait(lambda: reader.ended, CLOSE_S), "a closed source goes on"
        assert not reader.got, "a closed source goes on"

    def read(self, reader: _Reader, chunks: int) -> None:
        """Read so many chunks, or to the end."""
        for number in range(1, chunks + 1):
            if self._give:
                self._give()
            done = reader.wait(lambda number=number: reader.chunks >= number, self._within_s)  # type: ignore[misc]
            if reader.error is not None:
                raise AssertionError(f"it fails, and nothing is wrong: {reader.error}") from reader.error
            assert done or reader.ended, f"after {reader.chunks} chunks, nothing comes for {self._within_s:g} s"

    def reads(self, limit: int) -> None:
        source, now = self.open(), time.time
        reader = _Reader(source, limit)
        self.read(reader, limit // 2)
        with mock.patch("time.time", side_effect=lambda: now() - 86400.0):
            self.read(reader, limit)
        assert reader.got, "it gives nothing"
        self.close(source)

    def opens_again(self) -> None:
        for _ in range(2):
            source = self.open()
            self.read(_Reader(source, 1), 1)
            self.close(source)
        self.open().close()  # and nothing read

    def closes_under_a_reader(self) -> None:
        source = self.open()
        reader = _Reader(source)
        time.sleep(0.05)
        source.close()
        assert reader.wait(lambda: reader.ended, CLOSE_S), f"its reader still waits {CLOSE_S:g} s after it was closed"
        assert reader.error is None, f"closed under its reader, it fails: {reader.error}"

    def floods(self, give: Callable[[], int], flood: int, most: int | None) -> None:
        source = self.open()
        given = sum(give() for _ in range(flood))
        time.sleep(QUIET_S)  # for what is on its way
        reader = _Reader(source)
        reader.wait(lambda: reader.got + reader.lost >= given, self._within_s)
        count = reader.got + reader.lost
        assert count == given, f"of {given} that were given, {reader.got} came and {reader.lost} are counted as lost"
        assert most is None or reader.got <= most, f"it kept {reader.got} for a reader that slept, not {most}"
        source.close()

    def fault(self, break_: Callable[[], object], mend: Callable[[], object]) -> None:
        source = self.open()
        reader = _Reader(source)
        self.read(reader, 1)
        break_()
        reader.wait(lambda: False, QUIET_S)
        self.try_to_open()
        mend()
        end = time.monotonic() + self._within_s
        before = reader.got
        while reader.got == before or reader.ended:
            assert time.monotonic() < end, f"{self._within_s:g} s after the fault, it does not deliver"
            if reader.ended:
                assert reader.error is not None, "its other side is gone, and it ends as if nothing had happened"
                source.close()
                source, before = self.reopened(end), 0
                reader = _Reader(source)
            if self._give:
                self._give()
            reader.wait(lambda reader=reader, before=before: reader.got > before, 0.1)  # type: ignore[misc]
        self.close(source)

    def closes_while_broken(self, break_: Callable[[], object], mend: Callable[[], object]) -> None:
        source = self.open()
        reader = _Reader(source)
        self.read(reader, 1)
        break_()
        begin = time.monotonic()
        self.close(source)
        took_s = time.monotonic() - begin
        assert reader.wait(lambda: reader.ended, CLOSE_S), "its other side is gone, and its reader waits though closed"
        mend()
        assert took_s < BROKEN_CLOSE_S, f"its other side is gone, and closing it takes {took_s:.1f} s"

    def try_to_open(self) -> None:
        """Open it while its other side is gone, which may be refused."""
        begin = time.monotonic()
        with contextlib.suppress(SourceError):
            self.open().close()
        took_s = time.monotonic() - begin
        assert took_s < self._within_s, f"it took {took_s:.1f} s to say that its other side is gone"

    def reopened(self, end_s: float) -> Source:
        while True:
            try:
                return self.open()
            except SourceError:
                assert time.monotonic() < end_s, "the fault is over, and it cannot be opened"
                time.sleep(0.05)

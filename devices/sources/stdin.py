"""Raw PCM on standard input: `arecord -q -f S16_LE -r 16000 -c 1 -t raw | edgernn run ARTIFACT --source -`."""

from __future__ import annotations

import io
import select
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from edgernn.devices.sources.pace import Pace
from edgernn.devices.sources.pieces import Pieces
from edgernn.devices.sources.resample import Resampler
from edgernn.errors import AudioError, UsageError
from edgernn.stream import Chunk

__all__ = ["StdinSource"]

MOST_BYTES = 65536  # what a pipe holds
LOOK_S = 0.1
SLACK_S = 0.008  # programs hand over so much at a time, or more
SCALE = np.array(1 / 32768, np.float32)


@dataclass
class _Place:
    """Where in a stream its readers are: who opens it again goes on there."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    """Of who reads: one that was closed may still be about to leave half a sample to the next one."""
    begun: bool = False
    """Whether it has given samples: then it may be at its end, and that is no fault."""
    half: bytes = b""
    """What was read of a sample, where a pipe is cut within one."""


_places = weakref.WeakKeyDictionary[io.BufferedReader, _Place]()


class StdinSource:
    """Mono samples of 16 bits, little-endian, in `pieces` or whatever is there beyond; ends where the input ends."""

    def __init__(
        self, rate_hz: int, input_hz: int, stream: io.BufferedReader | None = None, pieces: Pieces | None = None
    ) -> None:
        self.rate_hz = rate_hz
        self._pieces = (pieces or Pieces()).at(rate_hz, input_hz)
        self._resampler = Resampler(input_hz, rate_hz)
        self._pace = Pace(input_hz, SLACK_S)
        self._stream = stream or _standard_input()
        self._closed = False
        self._poll = _poll_of(self._stream)
        if self._stream.isatty():
            raise UsageError("standard input is a terminal: pipe raw PCM into it, from arecord for instance")

    def __iter__(self) -> Iterator[Chunk]:
        memory = memoryview(bytearray(max(MOST_BYTES, 2 * self._pieces.each + 2)))
        pcm = np.frombuffer(memory, "<i2")
        place = _places.setdefault(self._stream, _Place())
        position = 0
        while not self._closed:
            needed = position + self._pieces.missing(position)
            self._pace.wait_for(needed)
            with place.lock:
                have, waited = self._fill(memory, 2 * (needed - position), place)
            if not have:
                if not self._closed:
                    yield Chunk(self._resampler.finish(), time.monotonic())
                return
            samples = pcm[: have // 2].astype(np.float32)
            samples *= SCALE
            position += len(samples)
            self._pace.came(position, now := time.monotonic(), waited)
            yield Chunk(self._resampler.push(samples), now)

    def _fill(self, memory: memoryview, least: int, place: _Place) -> tuple[int, bool]:
        """Read as `_read` does, after the half of a sample that was left, and leave the next half.

        Returns 0 bytes where nothing came, at the end or when it was closed.
        """
        half = len(place.half)
        memory[:half] = place.half
        count, waited = self._read(memory[half:], least - half)
        if self._closed and not count:
            return 0, waited
        have = half + count
        if not place.begun:
            _check_beginning(bytes(memory[: min(have, 4)]))
        if not count:
            return 0, waited
        place.begun, place.half = True, bytes(memory[have - have % 2 : have])
        return have, waited

    def _read(self, memory: memoryview, least: int) -> tuple[int, bool]:
        """Read so many bytes, or more that are there; fewer only at the end, or when it was closed.

        Returns how many, and whether they had to be waited for.
        """
        have, waited = 0, False
        while have < least and not self._closed:
            if self._poll is not None and not self._poll.poll(0):
                waited = True
                if not self._wait(self._poll):
                    break
            try:
                count = self._stream.readinto1(memory[have:])
            except OSError as error:
                raise AudioError(f"standard input cannot be read: {error.strerror or error}") from error
            if not count:
                break
            have += count
        return have, waited

    def _wait(self, poll: select.poll) -> bool:
        """Wait until something is there to be read, or the end; return False once it is closed."""
        while not self._closed and not poll.poll(1000 * LOOK_S):
            pass
        return not self._closed

    def close(self) -> None:
        """End the iteration, also from another thread; what nobody has read stays for who opens it next."""
        self._closed = True


def _standard_input() -> io.BufferedReader:
    if sys.stdin is None:
        raise UsageError("standard input is closed: pipe raw PCM into it, from arecord for instance")
    return sys.stdin.buffer  # type: ignore[return-value]


def _poll_of(stream: io.BufferedReader) -> select.poll | None:
    """Return what tells whether there is something to read; None for bytes in memory."""
    try:
        number = stream.fileno()
    except io.UnsupportedOperation:
        return None
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return poll


def _check_beginning(data: bytes) -> None:
    if not data:
        raise AudioError(
            "standard input ended before a sample came: did the program before the pipe fail?", for_good=True
        )
    if data.startswith(b"RIFF"):
        raise AudioError(
            "standard input begins with a WAV header, expected raw PCM: use arecord -t raw, or give the file itself",
            for_good=True,
        )

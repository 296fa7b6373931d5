"""Raw PCM on standard input: `arecord -q -f S16_LE -r 16000 -c 1 -t raw | edgernn run ARTIFACT --source -`."""

from __future__ import annotations

import io
import select
import sys
import time
import weakref
from collections.abc import Iterator

import numpy as np

from edgernn.devices.sources.pace import Pace
from edgernn.devices.sources.pieces import Pieces
from edgernn.devices.sources.resample import Resampler
from edgernn.errors import AudioError
from edgernn.stream import Chunk

__all__ = ["StdinSource"]

MOST_BYTES = 65536  # what a pipe holds
LOOK_S = 0.1
SLACK_S = 0.008  # programs hand over so much at a time, or more
SCALE = np.array(1 / 32768, np.float32)
_heard = weakref.WeakKeyDictionary[io.BufferedReader, bytes]()
"""Streams that have given samples, and the half of one that was read: who opens them again begins with the other half.

Such a stream may be at its end, and that is no fault.
"""


class StdinSource:
    """Mono samples of 16 bits, little-endian, in `pieces` or whatever is there beyond; ends where the input ends."""

    def __init__(
        self, rate_hz: int, input_hz: int, stream: io.BufferedReader | None = None, pieces: Pieces | None = None
    ) -> None:
        self.rate_hz = rate_hz
        self._pieces = (pieces or Pieces()).at(rate_hz, input_hz)
        self._resampler = Resampler(input_hz, rate_hz)
        self._pace = Pace(input_hz, SLACK_S)
        self._stream: io.BufferedReader = stream or sys.stdin.buffer  # type: ignore[assignment]
        self._closed = False
        self._poll = _poll_of(self._stream)
        if self._stream.isatty():
            raise AudioError("standard input is a terminal: pipe raw PCM into it, from arecord for instance")

    def __iter__(self) -> Iterator[Chunk]:
        memory = memoryview(bytearray(max(MOST_BYTES, 2 * self._pieces.each + 2)))
        pcm = np.frombuffer(memory, "<i2")
        begun, rest = self._stream in _heard, _heard.get(self._stream, b"")
        position, half = 0, len(rest)
        memory[:half] = rest
        while not self._closed:
            needed = position + self._pieces.missing(position)
            self._pace.wait_for(needed)
            count, waited = self._read(memory[half:], 2 * (needed - position) - half)
            have = half + count
            if self._closed and have == half:
                return
            if not begun:
                _check_beginning(bytes(memory[: min(have, 4)]))
            if have == half:
                yield Chunk(self._resampler.finish(), time.monotonic())
                return
            samples = pcm[: have // 2].astype(np.float32)
            samples *= SCALE
            position += len(samples)
            self._pace.came(position, now := time.monotonic(), waited)
            if half or have % 2 or not begun:
                half, begun = have % 2, True  # a pipe may be cut within a sample
                memory[:half] = memory[have - half : have]
                _heard[self._stream] = bytes(memory[:half])
            yield Chunk(self._resampler.push(samples), now)

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
            count = self._stream.readinto1(memory[have:])
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
        raise AudioError("standard input ended before a sample came: did the program before the pipe fail?")
    if data.startswith(b"RIFF"):
        raise AudioError(
            "standard input begins with a WAV header, expected raw PCM: use arecord -t raw, or give the file itself"
        )

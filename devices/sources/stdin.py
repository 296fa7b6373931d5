"""Raw PCM on standard input: `arecord -q -f S16_LE -r 16000 -c 1 -t raw | edgernn run ARTIFACT --source -`."""

from __future__ import annotations

import io
import select
import sys
import time
from collections.abc import Iterator

import numpy as np

from edgernn.devices.sources.resample import Resampler
from edgernn.errors import AudioError
from edgernn.stream import Chunk

__all__ = ["StdinSource"]

MOST_BYTES = 65536  # what a pipe holds
LOOK_S = 0.1


class StdinSource:
    """Mono samples of 16 bits, little-endian, as they come in; ends where the input ends."""

    def __init__(self, rate_hz: int, input_hz: int, stream: io.BufferedReader | None = None) -> None:
        self.rate_hz = rate_hz
        self._resampler = Resampler(input_hz, rate_hz)
        self._stream: io.BufferedReader = stream or sys.stdin.buffer  # type: ignore[assignment]
        self._closed = False
        self._poll = _poll_of(self._stream)
        if self._stream.isatty():
            raise AudioError("standard input is a terminal: pipe raw PCM into it, from arecord for instance")

    def __iter__(self) -> Iterator[Chunk]:
        half = b""  # a pipe may be cut within a sample
        begun = False
        while self._wait():
            data = self._stream.read1(MOST_BYTES)
            if not begun:
                _check_beginning(data)
                begun = True
            if not data:
                yield Chunk(self._resampler.finish(), time.monotonic())
                return
            data = half + data
            half = data[len(data) // 2 * 2 :]
            pcm = np.frombuffer(data, "<i2", len(data) // 2)
            yield Chunk(self._resampler.push(pcm.astype(np.float32) / np.float32(32768)), time.monotonic())

    def _wait(self) -> bool:
        """Wait until something is there to be read, or the end; return False once it is closed."""
        while not self._closed and self._poll is not None and not self._poll.poll(1000 * LOOK_S):
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

"""Raw PCM on standard input: `arecord -q -f S16_LE -r 16000 -c 1 -t raw | edgernn run ARTIFACT --source -`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from io import BufferedReader

import numpy as np

from edgernn.devices.sources.resample import Resampler
from edgernn.errors import AudioError
from edgernn.stream import Chunk

__all__ = ["StdinSource"]

MOST_BYTES = 65536  # what a pipe holds


class StdinSource:
    """Mono samples of 16 bits, little-endian, as they come in; ends where the input ends."""

    def __init__(self, rate_hz: int, input_hz: int, stream: BufferedReader | None = None) -> None:
        self.rate_hz = rate_hz
        self._resampler = Resampler(input_hz, rate_hz)
        self._stream: BufferedReader = stream or sys.stdin.buffer  # type: ignore[assignment]
        self._closed = False
        if self._stream.isatty():
            raise AudioError("standard input is a terminal: pipe raw PCM into it, from arecord for instance")

    def __iter__(self) -> Iterator[Chunk]:
        half = b""  # a pipe may be cut within a sample
        begun = False
        while not self._closed:
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

    def close(self) -> None:
        """End the iteration at the next chunk."""
        self._closed = True


def _check_beginning(data: bytes) -> None:
    if not data:
        raise AudioError("standard input ended before a sample came: did the program before the pipe fail?")
    if data.startswith(b"RIFF"):
        raise AudioError(
            "standard input begins with a WAV header, expected raw PCM: use arecord -t raw, or give the file itself"
        )

"""A recording as a source, at its own pace or as fast as it is taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from edgernn.clips import read_audio
from edgernn.stream import Chunk

__all__ = ["FileSource"]

CHUNK_S = 0.02  # as a sound card delivers


class FileSource:
    """A recording, read whole when opened; raises what `edgernn.clips.read_audio` raises."""

    def __init__(self, path: str | Path, rate_hz: int, fast: bool = False) -> None:
        self.rate_hz = rate_hz
        self._samples = read_audio(path, rate_hz)
        self._fast = fast
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Chunk]:
        size, begin = max(1, round(CHUNK_S * self.rate_hz)), time.monotonic()
        for start in range(0, len(self._samples), size):
            samples = self._samples[start : start + size]
            due = begin + (start + len(samples)) / self.rate_hz
            if self._closed.wait(0 if self._fast else max(0.0, due - time.monotonic())):
                return
            yield Chunk(samples, due)

    def close(self) -> None:
        """End the iteration, also from another thread."""
        self._closed.set()

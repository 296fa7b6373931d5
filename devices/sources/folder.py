"""Recordings of a folder, one after the other by name: `folder:PATH`; with `?follow`, those that come later too."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgernn.clips import SUFFIXES, read_audio
from edgernn.errors import AudioError, NotThereError
from edgernn.stream import Chunk

__all__ = ["FolderOptions", "FolderSource"]

CHUNK_S = 0.02
LOOK_S = 0.2
IDLE_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderOptions:
    """Options of the source."""

    follow: bool = False
    """Wait for new recordings when those there are were heard."""


class FolderSource:
    """One endless recording made of all; one that cannot be read is named in the log, and counted."""

    def __init__(self, path: str, options: FolderOptions, rate_hz: int, fast: bool = False) -> None:
        self.rate_hz = rate_hz
        self._folder, self._follow, self._fast = Path(path), options.follow, fast
        self._heard: set[str] = set()
        self._sizes: dict[str, int] = {}  # of those that may still be written
        self._unreadable = 0
        self._closed = threading.Event()
        if not self._recordings() and not self._follow:
            raise AudioError(f"the folder {path} has no recording: expected files named {', '.join(SUFFIXES)}")

    def _recordings(self) -> list[Path]:
        try:
            files = [path for path in sorted(self._folder.iterdir()) if path.suffix.lower() in SUFFIXES]
        except OSError as error:
            raise AudioError(f"the folder {self._folder} cannot be read: {error.strerror}") from error
        there = {path.name for path in files}
        self._heard &= there
        self._sizes = {name: size for name, size in self._sizes.items() if name in there}
        return [path for path in files if path.name not in self._heard]

    def __iter__(self) -> Iterator[Chunk]:
        self._due = time.monotonic()
        told_s = self._due
        while not self._closed.is_set():
            ready = [path for path in self._recordings() if not self._follow or self._is_whole(path)]
            for path in ready:
                yield from self._play(path)
                told_s = time.monotonic()
            if not ready and not self._follow:
                return
            if not ready and not self._closed.wait(LOOK_S) and time.monotonic() - told_s > IDLE_S:
                told_s = time.monotonic()
                self._due = max(self._due, told_s)
                yield self._chunk(np.zeros(0, np.float32), self._due, idle=True)

    def _is_whole(self, path: Path) -> bool:
        """Tell whether a recording is as large as it was at the last look: one that grows is being written."""
        try:
            size = path.stat().st_size
        except OSError:
            return False
        before = self._sizes.get(path.name)
        self._sizes[path.name] = size
        return size > 0 and before == size

    def _play(self, path: Path) -> Iterator[Chunk]:
        self._heard.add(path.name)
        self._sizes.pop(path.name, None)
        try:
            samples = read_audio(path, round(self.rate_hz))
        except (AudioError, NotThereError) as error:
            self._unreadable += 1
            _log.warning("%s", error)
            return
        size = max(1, round(CHUNK_S * self.rate_hz))
        self._due = max(self._due, time.monotonic() - CHUNK_S)
        for start in range(0, len(samples), size):
            piece = samples[start : start + size]
            self._due += len(piece) / self.rate_hz
            if self._closed.wait(0 if self._fast else max(0.0, self._due - time.monotonic())):
                return
            yield self._chunk(piece, self._due)

    def _chunk(self, samples: NDArray[np.float32], time_s: float, idle: bool = False) -> Chunk:
        dropped = {"unreadable": self._unreadable} if self._unreadable else {}
        self._unreadable = 0
        return Chunk(samples, time_s, 0, dropped, idle)

    def close(self) -> None:
        """End the iteration, also from another thread."""
        self._closed.set()

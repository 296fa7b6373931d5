"""Tells when artifacts were replaced: by another folder, through a link, or file by file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

__all__ = ["Watch"]

MOST_FILES = 100  # an artifact has a handful

State = tuple[object, ...]


class Watch:
    """Looks at folders now and then, from when it is made."""

    def __init__(self, folders: Collection[Path], every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._folders, self._every_s, self._clock = tuple(folders), every_s, clock
        self._known = self._latest = self._look()
        self._next_s = clock() + every_s

    def has_changed(self) -> bool:
        """Tell, once, that something is not as it was; only when it has been left alone between two looks."""
        if not self._every_s or self._clock() < self._next_s:
            return False
        self._next_s = self._clock() + self._every_s
        before, self._latest = self._latest, self._look()
        if self._latest == self._known or self._latest != before:
            return False
        self._known = self._latest
        return True

    def _look(self) -> State:
        return tuple(_state(folder) for folder in self._folders)


def _state(folder: Path) -> State:
    """Return what is another one whenever a file was written or a folder replaced."""
    try:
        with os.scandir(folder) as entries:
            files = sorted((entry for entry, _ in zip(entries, range(MOST_FILES), strict=False)), key=lambda e: e.name)
        stats = [(entry.name, entry.stat()) for entry in files]
    except OSError as error:
        return (error.errno,)
    return tuple((name, found.st_ino, found.st_size, found.st_mtime_ns) for name, found in stats)

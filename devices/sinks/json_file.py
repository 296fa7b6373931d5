"""JSON lines at the end of a file, which is moved aside when it has grown: `json:PATH?rotate=10MB&keep=5`."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from edgernn.devices.sinks.lines import errors_named
from edgernn.devices.uri import Bytes
from edgernn.errors import SinkError, UsageError
from edgernn.events import Message

__all__ = ["JsonFileOptions", "JsonFileSink"]


@dataclass(frozen=True)
class JsonFileOptions:
    """Options of the sink."""

    rotate: Bytes | None = None
    """Size that a file does not grow beyond; then it becomes PATH.1, and PATH.1 becomes PATH.2."""
    keep: int = 5
    """How many such files stay."""
    sync: bool = False
    """Whether an event must have reached the disk, for a power cut. (A kill loses nothing either way.)"""


class JsonFileSink:
    """A file that others may read, move away or delete meanwhile."""

    def __init__(self, path: str, options: JsonFileOptions | None = None) -> None:
        self._path, self._options = Path(path), options or JsonFileOptions()
        try:
            self._fd = self._open()
        except OSError as error:
            raise UsageError(f"the file {path} for events cannot be written: {error.strerror}") from error

    def write(self, message: Message) -> None:
        """Write one event; another process can read it when this returns."""
        if self._fd < 0:
            raise SinkError(f"the file {self._path} for events is closed")
        with errors_named(f"the file {self._path}"):
            self._follow()
            line = message.to_json().encode() + b"\n"
            most = self._options.rotate
            if most and 0 < os.fstat(self._fd).st_size > most - len(line):
                self._rotate()
            self._append(line)

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with errors_named(f"the file {self._path}"):
                os.close(fd)

    def _open(self) -> int:
        """Open the file; a line that was cut short, by a power cut or a full disk, gets its end."""
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with contextlib.suppress(OSError):  # what has no size, such as a pipe, has no last line
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                os.write(fd, b"\n")
        return fd

    def _follow(self) -> None:
        """Begin a new file where another program took the old one away."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                return
        self._reopen()

    def _rotate(self) -> None:
        names = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, self._options.keep + 1))]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        self._reopen()

    def _reopen(self) -> None:
        fd = self._open()
        os.close(self._fd)
        self._fd = fd

    def _append(self, line: bytes) -> None:
        """Write the whole line or nothing of it."""
        before = os.fstat(self._fd).st_size
        try:
            done = 0
            while done < len(line):
                done += os.write(self._fd, line[done:])
            if self._options.sync:
                os.fsync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, before)
            raise

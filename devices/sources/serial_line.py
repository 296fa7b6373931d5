"""Values from a serial line: `serial:/dev/ttyUSB0?baud=115200`, one frame on each line of text."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

from edgernn.devices.sources.inbox import InboxSource
from edgernn.devices.sources.lines import LineSplitter
from edgernn.devices.sources.values import ValueReader
from edgernn.errors import MissingDependencyError, SourceError

__all__ = ["SerialOptions", "SerialSource"]

QUEUE_FRAMES = 1000
LOOK_S = 0.2
MOST_READ = 4096


@dataclass(frozen=True)
class SerialOptions:
    """Options of the source."""

    baud: int = 115200
    fields: tuple[str, ...] = ()
    """Members of a JSON object, or columns of plain numbers; see `ValueReader`."""
    rate: float | None = None
    """Frames a second; by default the model's."""


class SerialSource(InboxSource):
    """Reads in a thread; empty lines and those that begin with `#` are comments. An unplugged device is an error."""

    def __init__(self, path: str, options: SerialOptions, reader: ValueReader, rate_hz: float) -> None:
        super().__init__(f"the serial line {path}", rate_hz, QUEUE_FRAMES, shape=reader.shape)
        self._reader = reader
        self._port = self._open(path, options.baud)
        self._start(self._receive)

    def _open(self, path: str, baud: int) -> Any:
        try:
            import serial
        except ModuleNotFoundError as error:
            raise MissingDependencyError("a serial line", "pyserial", "serial") from error
        self._error: type[Exception] = serial.SerialException
        try:
            return serial.Serial(path, baud, timeout=LOOK_S, exclusive=True)
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None)  # whose text pyserial says twice, with its own words around it
            raise SourceError(f"{self._name} cannot be opened: {os.strerror(number) if number else error}") from error

    def _receive(self) -> None:
        splitter = LineSplitter()
        with self._port:
            while not self._closed.is_set():
                try:
                    data = self._port.read(min(self._port.in_waiting, MOST_READ) or 1)
                except (OSError, TypeError, self._error) as error:  # TypeError: closed in the middle of it
                    raise SourceError(f"{self._name} is gone: is it still plugged in? ({error})") from error
                for line in splitter.push(data):
                    self._take(line)
                if splitter.too_long:
                    self._inbox.note("malformed", splitter.too_long, splitter.too_long)
                    splitter.too_long = 0

    def _wake(self) -> None:
        with contextlib.suppress(Exception):  # of a device that is gone
            self._port.cancel_read()

    def _take(self, line: bytes) -> None:
        if not (line := line.strip()) or line.startswith(b"#"):
            return
        try:
            self._inbox.put(self._reader.read(line.decode()))
        except ValueError as error:
            self._inbox.note("malformed", lost=1, why=error)

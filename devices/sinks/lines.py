"""Events as lines, each there at once for whoever reads along."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

from edgernn.errors import UsageError
from edgernn.events import Event

__all__ = ["JsonSink", "TextSink"]


class TextSink:
    """Lines for people, on standard output or another stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream

    def write(self, event: Event) -> None:
        """Print one event."""
        print(event, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the stream open: it belongs to the process."""


class JsonSink:
    """JSON lines, on standard output or at the end of a file."""

    def __init__(self, path: str = "") -> None:
        try:
            self._file = Path(path).open("a", encoding="utf-8") if path else None  # noqa: SIM115 (closed in close)
        except OSError as error:
            raise UsageError(f"the file {path} for events cannot be written: {error.strerror}") from error

    def write(self, event: Event) -> None:
        """Write one event; it is on its way to the disk when this returns."""
        print(event.to_json(), file=self._file, flush=True)

    def close(self) -> None:
        """Close the file, if it is one."""
        if self._file is not None:
            self._file.close()

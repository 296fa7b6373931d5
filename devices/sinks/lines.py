"""Events as lines, each there at once for whoever reads along."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from edgernn.errors import SinkError, UsageError
from edgernn.events import Message

__all__ = ["JsonSink", "TextSink"]


class TextSink:
    """Lines for people, on standard output or another stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream

    def write(self, message: Message) -> None:
        """Print one event."""
        with _errors_named("standard output"):
            print(message, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the stream open: it belongs to the process."""


class JsonSink:
    """JSON lines, on standard output or at the end of a file."""

    def __init__(self, path: str = "") -> None:
        self._name = f"the file {path}" if path else "standard output"
        try:
            self._file = Path(path).open("a", encoding="utf-8") if path else None  # noqa: SIM115 (closed in close)
        except OSError as error:
            raise UsageError(f"the file {path} for events cannot be written: {error.strerror}") from error

    def write(self, message: Message) -> None:
        """Write one event; it is on its way to the disk when this returns."""
        with _errors_named(self._name):
            print(message.to_json(), file=self._file, flush=True)

    def close(self) -> None:
        """Close the file, if it is one."""
        if self._file is not None:
            with _errors_named(self._name):
                self._file.close()


@contextlib.contextmanager
def _errors_named(where: str) -> Iterator[None]:
    """Say where events could not go; a reader who has gone away (BrokenPipeError) is no such failure."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SinkError(f"events cannot be written to {where}: {error.strerror}") from error

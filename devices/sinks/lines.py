"""Events as lines on standard output, each there at once for whoever reads along."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TextIO

from edgernn.errors import SinkError
from edgernn.events import Message

__all__ = ["JsonSink", "TextSink", "errors_named"]


class TextSink:
    """Lines for people, on standard output or another stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream

    def write(self, message: Message) -> None:
        """Print one event."""
        with errors_named("standard output"):
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            line = str(message).encode(encoding, "backslashreplace").decode(encoding)
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the stream open: it belongs to the process."""


class JsonSink:
    """JSON lines on standard output."""

    def write(self, message: Message) -> None:
        """Print one event."""
        with errors_named("standard output"):
            print(message.to_json(), flush=True)

    def close(self) -> None:
        """Leave the stream open: it belongs to the process."""


@contextlib.contextmanager
def errors_named(where: str) -> Iterator[None]:
    """Say where events could not go; a reader who has gone away (BrokenPipeError) is no such failure."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SinkError(f"events cannot be written to {where}: {error.strerror}") from error

"""JSON lines to a program that listens on a Unix socket: `unix:/run/events.sock`.

The connection stays open. The program answers each line with a line: the event's id where it has taken the event, or
`refused` and why, where it never will. A connection that ends before the answer delivered nothing, so that the event
comes again. With `?ack=false` nothing is read, and what was sent counts as delivered: for `socat UNIX-LISTEN:… -`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from edgernn.errors import RefusedError, SinkError
from edgernn.events import Message

__all__ = ["UnixOptions", "UnixSink"]

MOST_ANSWER = 4096


@dataclass(frozen=True)
class UnixOptions:
    """Options of the sink."""

    ack: bool = True
    """Whether an event is delivered when it was answered, or when it was sent."""
    timeout: float = 5.0
    """Seconds to wait for an answer."""


class UnixSink:
    """One connection to a stream socket; a path that begins with @ is an abstract one."""

    def __init__(self, path: str, options: UnixOptions | None = None) -> None:
        self._path, self._options = path, options or UnixOptions()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(self._options.timeout)
        try:
            with self._errors():
                self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
        except SinkError:
            self._socket.close()
            raise
        self._answers = self._socket.makefile("rb")

    def write(self, message: Message) -> None:
        """Send one event, and wait for its answer."""
        with self._errors():
            self._socket.sendall(message.to_json().encode() + b"\n")
            if not self._options.ack:
                return
            answer = self._answers.readline(MOST_ANSWER).decode("utf-8", "replace")
        if not answer.endswith("\n"):
            raise SinkError(f"the program at the socket {self._path} went away before it had answered")
        if answer.startswith("refused"):
            raise RefusedError(f"the program at the socket {self._path} says: {answer.strip()}")
        if answer.strip() != message.id:
            raise SinkError(f"the program at the socket {self._path} answered {answer[:80]!r}, expected the event's id")

    def close(self) -> None:
        """Close the connection."""
        self._answers.close()
        self._socket.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: closed
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise SinkError(f"events cannot be sent to the socket {self._path}: {reason}") from error

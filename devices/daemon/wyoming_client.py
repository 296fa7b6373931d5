"""One Wyoming client: a thread that reads what it says, event by event, and answers.

Nothing is queued: what is not read yet waits in the client, which slows one that sends faster than it is heard.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable

from edgernn.devices.daemon.wake_counters import WakeCounters
from edgernn.devices.daemon.wake_session import Tell, WakeSession
from edgernn.devices.daemon.wake_words import WakeWords
from edgernn.devices.daemon.wyoming_events import ClientError, EventReader, WyomingEvent, encode
from edgernn.errors import EdgeRNNError
from edgernn.text import one_line

__all__ = ["WyomingClient", "shut"]

WRITE_S = 5.0  # how long a client may take to read what it is sent
KEEP_ALIVE = {
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
}  # a machine that is gone is noticed in a minute

_log = logging.getLogger(__name__)


class WyomingClient:
    """A connection from `start` to its end, which `gone` is told of."""

    def __init__(
        self,
        connection: socket.socket,
        words: Callable[[], WakeWords],
        tell: Tell,
        counters: WakeCounters,
        gone: Callable[[WyomingClient], None],
    ) -> None:
        self._connection, self._counters, self._gone = connection, counters, gone
        self._host = str(connection.getpeername()[0])
        self._session = WakeSession(words, self._send, tell, counters)
        self._reader = EventReader(connection, words().config.idle_s)
        self._stopping = False
        self.thread = threading.Thread(target=self._run, name=f"wyoming {self._host}", daemon=True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    @property
    def busy_since(self) -> float | None:
        """When what it works on began, on the monotonic clock; None while it waits."""
        return self._session.busy_since

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._counters.begin_client()
        try:
            self.thread.start()
        except RuntimeError as error:  # there are as many threads as there may be
            _log.error("wake client %s: its connection is closed: %s", self._host, error)
            self._end("failed")

    def stop(self) -> None:
        """Begin to end: the connection is shut, and the thread goes when it notices."""
        self._stopping = True
        shut(self._connection)

    def _run(self) -> None:
        cause = "failed"
        try:
            self._converse()
            cause = "closed"
        except ClientError as error:
            cause = error.cause
            level = logging.WARNING if cause in ("malformed", "unread", "stalled") else logging.INFO
            _log.log(level, "wake client %s: its connection is closed: %s", self._host, one_line(error))
        except Exception as error:
            words = one_line(error if isinstance(error, EdgeRNNError) else f"{type(error).__name__}: {error}")
            _log.error("wake client %s: its connection is closed: %s", self._host, words)
        finally:
            self._end("drained" if self._stopping else cause)

    def _converse(self) -> None:
        while (event := self._reader.read()) is not None:
            self._session.answer(event)

    def _send(self, event: WyomingEvent) -> None:
        try:
            self._connection.settimeout(WRITE_S)
            self._connection.sendall(encode(event))
        except TimeoutError:
            raise ClientError("unread", f"it read nothing of what it was sent for {WRITE_S:g} s") from None
        except OSError as error:
            raise ClientError("gone", error.strerror or "the connection broke") from error

    def _end(self, cause: str) -> None:
        try:
            self._session.close(fine=cause != "failed")
        except Exception as error:
            _log.error("wake client %s: a stream cannot be closed: %s", self._host, one_line(error))
        shut(self._connection)
        self._connection.close()
        self._counters.end_client(cause)
        self._gone(self)


def shut(connection: socket.socket) -> None:
    """Wake whoever waits for a socket; harmless for one that is shut."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

"""Wake words for others, over the Wyoming protocol: Home Assistant and satellites send audio, and are told of words."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from edgernn.devices.daemon.announce import Announcement
from edgernn.devices.daemon.config import PipelineConfig
from edgernn.devices.daemon.wake_counters import WakeCounters
from edgernn.devices.daemon.wake_words import Spotter, WakeWords
from edgernn.devices.daemon.wyoming_client import WyomingClient, shut
from edgernn.devices.daemon.wyoming_events import WyomingEvent, encode
from edgernn.errors import FailureError
from edgernn.events import Event

__all__ = ["WyomingServer"]

BACKLOG = 16
BUSY_S = 10.0  # longer than this, and work on one event hangs

_log = logging.getLogger(__name__)


class WyomingServer:
    """Listens from when it is made; raises `FailureError` where it cannot. `start` begins to answer."""

    def __init__(
        self, words: WakeWords, put: Callable[[PipelineConfig, Event], object], counters: WakeCounters
    ) -> None:
        self.words = words
        self._put, self._counters = put, counters
        self._clients: set[WyomingClient] = set()
        self._lock = threading.Lock()
        self._stopping = False
        self._socket = _listen(words.config.listen)
        self._thread = threading.Thread(target=self._accept, name="wyoming", daemon=True)
        self._announcement: Announcement | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port, the one that the system chose where the configuration says 0."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    @property
    def _place(self) -> str:
        return "tcp://{}:{}".format(*self.address)

    def start(self) -> None:
        """Begin to answer, in threads of its own."""
        self._thread.start()
        _log.info("wake words on %s: %s", self._place, ", ".join(self.words.words))
        self._tell_of_words()

    def take_over(self, words: WakeWords) -> None:
        """Offer other words from now on; streams that have begun go on with the old ones."""
        old, self.words = self.words, words
        if old is not words:
            old.retire()
        self._tell_of_words()

    def _tell_of_words(self) -> None:
        """Bring what others see of this server up to date."""
        host, port = self.address
        self._counters.listen, self._counters.offered = self._place, tuple(self.words.words)
        wanted, there = self.words.config.announce, self._announcement
        if wanted and there is None:
            self._announcement = Announcement(host, port)
            self._announcement.start()
        elif there is not None and not wanted:
            there.stop(0)
            self._announcement = None

    def tend(self) -> bool:
        """Return whether all is well: it accepts, and no client's event takes for ever."""
        with self._lock:
            since = [client.busy_since for client in self._clients]
        longest = max((time.monotonic() - begin for begin in since if begin is not None), default=0.0)
        return longest <= BUSY_S and self._thread.is_alive()

    def stop(self, timeout_s: float) -> None:
        """Close every connection and wait for the threads."""
        deadline = time.monotonic() + timeout_s
        self._stopping = True
        if self._counters.listen == self._place:  # else it is that of another server, which took over
            self._counters.listen, self._counters.offered = "", ()
        shut(self._socket)
        self._thread.join(timeout_s)
        self._socket.close()
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            client.stop()
        for client in clients:
            client.thread.join(max(0.0, deadline - time.monotonic()))
        if self._announcement is not None:
            self._announcement.stop(max(0.1, deadline - time.monotonic()))
        self.words.retire()

    def _accept(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if not self._stopping:  # no file descriptor is left, say
                    _log.error("wake words: no client can be accepted: %s", error.strerror)
                    time.sleep(0.5)
                continue
            try:
                self._begin(connection)
            except OSError:  # it is gone already
                connection.close()

    def _begin(self, connection: socket.socket) -> None:
        with self._lock:
            full = len(self._clients) >= self.words.config.most_clients
        if full:
            self._refuse(connection)
            return
        client = WyomingClient(connection, lambda: self.words, self._tell, self._counters, self._forget)
        with self._lock:
            self._clients.add(client)
        client.start()

    def _refuse(self, connection: socket.socket) -> None:
        self._counters.refuse_client()
        text = f"there are as many clients as there may be: {self.words.config.most_clients} (wake.most_clients)"
        _log.warning("wake client %s: refused, %s", connection.getpeername()[0], text)
        connection.setblocking(False)
        connection.send(encode(WyomingEvent("error", {"text": text, "code": "too-many-clients"})))
        connection.close()

    def _forget(self, client: WyomingClient) -> None:
        with self._lock:
            self._clients.discard(client)

    def _tell(self, spotter: Spotter, event: Event) -> None:
        self._counters.count_word(event.label)
        if spotter.prepared.config.sinks:
            self._put(spotter.prepared.config, event)


def _listen(address: str) -> socket.socket:
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or 0
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        raise FailureError(f"wake.listen: {address} cannot be listened on: {reason}; name another port") from error

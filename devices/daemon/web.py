"""The daemon's one port: `/metrics`, `/health`, `/ready`, and the live page at `/`.

It only answers GET, has no password, and changes nothing. It listens on loopback unless it is told otherwise, and
turns away what a page of another site makes a browser ask (by the headers Host and Origin).
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import re
import select
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edgernn.devices.boards.vitals import Vitals, read_vitals
from edgernn.devices.daemon.config import HttpConfig
from edgernn.devices.daemon.counters import DaemonCounters
from edgernn.devices.daemon.health import health, ready
from edgernn.devices.daemon.live import Viewer
from edgernn.devices.daemon.metrics import Metrics
from edgernn.errors import FailureError

__all__ = ["WebServer"]

MOST_CONNECTIONS = 16
MOST_VIEWERS = 4
REQUEST_S = 10.0  # from the connection to the end of the answer
SLOW_S = 2.0  # how long a viewer may take nothing
SEND_BUFFER = 16384  # a few seconds of a page
VITALS_S = 5.0
POLL_S = 0.25

PAGE = {
    "/": ("live.html", "text/html; charset=utf-8"),
    "/live.css": ("live.css", "text/css; charset=utf-8"),
    "/live.js": ("live.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}

_log = logging.getLogger(__name__)


class WebServer:
    """Answers from `start` to `stop`; raises `FailureError` where it cannot listen."""

    def __init__(self, config: HttpConfig, counters: DaemonCounters) -> None:
        self.config = config
        host, port = config.listen
        try:
            self._server = _Server(config, counters)
        except OSError as error:
            reason = error.strerror or error
            raise FailureError(f"http.listen: nothing can listen on {host}, port {port}: {reason}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name="web", daemon=True)

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}/" if ":" in str(host) else f"http://{host!s}:{port}/"

    def start(self) -> None:
        """Begin to answer."""
        host = self._server.server_address[0]
        if not ipaddress.ip_address(str(host)).is_loopback:
            _log.warning("%s is open to the network, and there is no password: everyone there sees the page", self.url)
        self._thread.start()
        _log.info("the live page is at %s", self.url)

    def stop(self) -> None:
        """Listen no more; pages that are open end by themselves."""
        self._server.stopping.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread for each connection, of which there are never more than `MOST_CONNECTIONS`."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, config: HttpConfig, counters: DaemonCounters) -> None:
        host, port = config.listen
        self.counters, self.stopping = counters, threading.Event()
        self.dropped: Counter[str] = Counter({"busy": 0, "foreign": 0, "slow": 0})
        """Requests and viewers that got no answer, by cause; each may be a few too low when two come at once."""
        self.vitals = _Remembered(read_vitals, VITALS_S)
        self.metrics = Metrics(counters, self.vitals, self.dropped, lambda: len(self.viewers))
        self.viewers: set[socket.socket] = set()
        self.names = {"localhost", host.lower(), *_own_names(), *map(str.lower, config.names)}
        self._since: dict[socket.socket, float] = {}  # the connections that have not been answered
        self._lock = threading.Lock()  # around the viewers
        self._slots = threading.BoundedSemaphore(MOST_CONNECTIONS)
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__(address, _Handler)  # type: ignore[arg-type]  # four elements for IPv6, which it takes as well

    def knows(self, host: str) -> bool:
        """Tell whether a header Host means this machine, and no name that someone else has led here."""
        found = re.fullmatch(r"(?:\[([^\]]*)\]|([^:]*))(?::\d+)?", host.lower())
        name = (found[1] or found[2]) if found else ""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True

    def admit(self, connection: socket.socket) -> bool:
        """Let a connection stay open, as a viewer's; tell whether there is room for one more."""
        with self._lock:
            if len(self.viewers) >= MOST_VIEWERS:
                self.dropped["busy"] += 1
                return False
            self.viewers.add(connection)
        self._since.pop(connection, None)
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread for a connection, or end it where there are too many."""
        if not self._slots.acquire(blocking=False):
            self.dropped["busy"] += 1
            self.shutdown_request(request)
            return
        self._since[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except BaseException:  # there are as many threads as there may be
            self._since.pop(request, None)
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.viewers.discard(request)
            self._since.pop(request, None)
            self._slots.release()

    def service_actions(self) -> None:
        """End connections that take too long, such as one that sends a letter a second."""
        for connection, since in self._since.copy().items():
            if time.monotonic() - since > REQUEST_S and self._since.pop(connection, 0.0):
                self.dropped["slow"] += 1
                _end(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with one connection; a client that is gone is not worth a line to people."""
        _log.debug("a request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "EdgeRNN", ""
    timeout = REQUEST_S

    def do_GET(self) -> None:
        if not self._is_ours():
            self.server.dropped["foreign"] += 1
            self._answer_error(HTTPStatus.MISDIRECTED_REQUEST, "not a name of this machine; see http.names")
            return
        place = urlsplit(self.path)
        if place.path in PAGE:
            file, kind = PAGE[place.path]
            self._answer(HTTPStatus.OK, (files(__package__) / file).read_bytes(), kind)
        elif place.path == "/metrics":
            self._answer(HTTPStatus.OK, *self.server.metrics.text(self.headers.get("Accept", "")))
        elif place.path in ("/health", "/ready"):
            well, words = (health if place.path == "/health" else ready)(self.server.counters)
            status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, json.dumps(words, indent=1).encode(), "application/json")
        elif place.path == "/events":
            self._stream(parse_qs(place.query).get("pipeline", [""])[-1])
        else:
            self._answer_error(HTTPStatus.NOT_FOUND, "there are /, /metrics, /health and /ready")

    def _is_ours(self) -> bool:
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        return self.server.knows(host) and (origin is None or urlsplit(origin).netloc == host)

    def _stream(self, pipeline: str) -> None:
        server = self.server
        if not server.admit(self.connection):
            self._answer_error(HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_VIEWERS} pages are open already")
            return
        try:
            self._head(HTTPStatus.OK, "text/event-stream")
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self.connection.settimeout(SLOW_S)
            with contextlib.closing(Viewer(server.counters, server.vitals, pipeline).events(server.stopping)) as events:
                for event in events:
                    self.wfile.write(event)
                    if self._is_gone():
                        break
        except TimeoutError:
            server.dropped["slow"] += 1
        except ConnectionError:  # the page was closed
            pass

    def _is_gone(self) -> bool:
        """Tell whether the page was closed, which writing to it would show much later."""
        return bool(select.select([self.connection], [], [], 0)[0]) and not self.connection.recv(4096)

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self._head(status, kind, {"Content-Length": str(len(body))})
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True

    def _answer_error(self, status: HTTPStatus, words: str) -> None:
        self._answer(status, f"{status.phrase}: {words}\n".encode(), "text/plain; charset=utf-8")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what cannot be read as a GET, in plain text."""
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:  # what the library says for a method of which it knows nothing
            status, message = HTTPStatus.METHOD_NOT_ALLOWED, "only GET"
        self._head(status, "text/plain; charset=utf-8", {"Allow": "GET"})
        self.wfile.write(f"{status.phrase}: {message or ''}\n".encode())

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("%s: " + format, self.client_address[0], *args)


class _Remembered:
    """What is not read anew within some seconds, however many ask."""

    def __init__(self, read: Callable[[], Vitals], for_s: float) -> None:
        self._read, self._for_s = read, for_s
        self._lock = threading.Lock()
        self._latest: tuple[float, Vitals] | None = None

    def __call__(self) -> Vitals:
        with self._lock:
            if self._latest is None or time.monotonic() - self._latest[0] > self._for_s:
                self._latest = time.monotonic(), self._read()
            return self._latest[1]


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, f"{name.partition('.')[0]}.local"}


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has just ended by itself
        connection.shutdown(socket.SHUT_RDWR)

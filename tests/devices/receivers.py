"""What takes events in tests: a program at a Unix socket, and a web server."""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import ssl
import threading
from pathlib import Path
from typing import Any

from edgernn.events import Message


class UnixServer:
    """A program that listens on a socket, and answers each event with its id, or what `answers` says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[Message] = []
        self.answers: list[str] = []

    def start(self) -> None:
        """Listen."""
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                connections.append(self.connection)
                with contextlib.suppress(ConnectionError):  # who sends may be killed
                    for line in self.rfile:
                        self.wfile.write(server.take(line).encode())

        connections = self._connections = list[socket.socket]()
        self._server = socketserver.ThreadingUnixStreamServer(str(self.path), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def take(self, line: bytes) -> str:
        """Keep an event, and return the answer."""
        message = Message.from_json(line.decode())
        answer = self.answers.pop(0) if self.answers else f"{message.id}\n"
        if answer.startswith(message.id):
            self.messages.append(message)
        return answer

    def stop(self) -> None:
        """Cut every connection, and take the socket away."""
        self._server.shutdown()
        self._thread.join()
        _cut(self._connections)
        self._server.server_close()
        self.path.unlink()


class WebServer:
    """A web server on a port that the system chooses, and keeps when it is stopped and started again."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.messages: list[Message] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.statuses: list[int] = []
        """What the next answers are; then 204."""
        self.retry_after = ""
        """A header of those that take nothing."""
        self.connections = 0
        self._tls = tls

    def start(self) -> None:
        """Listen."""
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                server.connections += 1
                connections.append(self.connection)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.before()
                status = server.statuses.pop(0) if server.statuses else 204
                server.headers.append(dict(self.headers))
                server.bodies.append(body)
                if status < 300:
                    server.messages.append(Message.from_json(body.decode()))
                with contextlib.suppress(ConnectionError):  # who sends may have gone
                    self.answer(status)

            def answer(self, status: int) -> None:
                self.send_response(status)
                if server.retry_after and status >= 300:
                    self.send_header("Retry-After", server.retry_after)
                self.send_header("Content-Length", "0" if status in (204, 304) else "5")
                self.end_headers()
                if status not in (204, 304):
                    self.wfile.write(b"hello")

            def log_message(self, *_: Any) -> None:
                pass

        connections = self._connections = list[socket.socket]()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        if self._tls:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def before(self) -> None:
        """Do what delays an answer."""

    def cut(self) -> None:
        """End every connection, as servers do with those that are idle."""
        _cut(self._connections)

    def stop(self) -> None:
        """Cut every connection, and listen no more."""
        self._server.shutdown()
        self._thread.join()
        self.cut()
        self._server.server_close()


def _cut(connections: list[socket.socket]) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    connections.clear()

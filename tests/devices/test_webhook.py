"""The webhook against a real web server, with and without TLS."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import hmac
import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgernn.devices.secret import Secret
from edgernn.devices.sinks import open_sink
from edgernn.errors import RefusedError, SinkError
from edgernn.events import Keyword, Message, Stamp
from tests.devices.certificates import make_certificates
from tests.devices.receivers import WebServer

STAMP = Stamp()


def message() -> Message:
    return STAMP("hall", Keyword("left", 0.9, 0.5, 1.0))


@pytest.fixture
def server() -> Iterator[WebServer]:
    server = WebServer()
    server.start()
    yield server
    server.stop()


def test_it_sends_the_id_a_token_and_a_signature(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    table = {"secret": Secret("file", str(tmp_path / "secret")), "token": Secret("text", "abc")}
    sink, sent = open_sink(f"http://127.0.0.1:{server.port}/", table), message()
    sink.write(sent)
    (headers,), (body,) = server.headers, server.bodies
    assert headers["Idempotency-Key"] == sent.id
    assert headers["Authorization"] == "Bearer abc"
    assert headers["X-Signature"] == "sha256=" + hmac.new(b"hunter2", body, hashlib.sha256).hexdigest()
    assert Message.from_json(body.decode()) == sent
    sink.close()
    with pytest.raises(SinkError, match="is closed"):
        sink.write(sent)


def test_a_token_that_no_header_can_have_is_not_told() -> None:
    sink = open_sink("http://127.0.0.1:9/", {"token": Secret("text", "hunter2\nof two lines")})
    with pytest.raises(SinkError, match="the token for") as caught:
        sink.write(message())
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, RefusedError) for status in (400, 401, 404)),
        *((status, SinkError) for status in (408, 429, 500, 301)),
    ],
)
def test_a_status_says_whether_to_try_again(server: WebServer, status: int, kind: type[SinkError]) -> None:
    sink, sent = open_sink(f"http://127.0.0.1:{server.port}/hook?key=hidden"), message()
    server.statuses = [status]
    with pytest.raises(SinkError, match=f"http://127.0.0.1:{server.port}/hook .*{status}") as caught:
        sink.write(sent)
    assert type(caught.value) is kind
    assert "hidden" not in str(caught.value)
    sink.write(sent)
    assert server.messages == [sent]
    sink.close()


@pytest.mark.parametrize(
    ("status", "retry_after", "least_s", "most_s"),
    [
        (429, "7", 7, 7), (503, "0", 0, 0), (503, "in a while", 0, 0), (500, "7", 0, 0),
        (503, "9" * 400, 1e9, math.inf),
        (503, 100, 50, 100), (429, -100, 0, 0),
    ],
)  # fmt: skip
def test_it_asks_to_be_left_alone_as_long_as_the_server_says(
    server: WebServer, status: int, retry_after: str | int, least_s: float, most_s: float
) -> None:
    """By seconds, or by a date (here so many seconds from now)."""
    if isinstance(retry_after, int):
        retry_after = email.utils.formatdate(time.time() + retry_after, usegmt=True)
    sink = open_sink(f"http://127.0.0.1:{server.port}/")
    server.statuses, server.retry_after = [status], retry_after
    with pytest.raises(SinkError) as caught:
        sink.write(message())
    assert least_s <= caught.value.wait_s <= most_s
    sink.close()


def test_one_connection_serves_many_and_is_renewed_when_it_idled(server: WebServer) -> None:
    sink, sent = open_sink(f"http://127.0.0.1:{server.port}/"), [message() for _ in range(6)]
    for one in sent[:3]:
        sink.write(one)
    assert server.connections == 1
    server.cut()
    time.sleep(0.02)
    for one in sent[3:]:
        sink.write(one)
    assert (server.connections, server.messages) == (2, sent)
    sink.close()


def test_an_answer_without_end_is_not_waited_for() -> None:
    """A byte every now and then, as of server-sent events."""
    over = threading.Event()

    def answer() -> None:
        connection = listening.accept()[0]
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not over.wait(0.05):
                connection.sendall(b":")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        sink = open_sink(f"http://127.0.0.1:{listening.getsockname()[1]}/", {"timeout": 0.3})
        begin = time.monotonic()
        sink.write(message())  # it has arrived, whatever else is said
        assert time.monotonic() - begin < 3
        over.set()
        thread.join()
        sink.close()


def test_a_server_that_says_nothing(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = open_sink(f"http://127.0.0.1:{silent.getsockname()[1]}/", {"timeout": 0.1})
        with pytest.raises(SinkError, match="cannot be reached: timed out"):
            sink.write(message())
        sink.close()


def test_it_trusts_whom_it_is_told_to(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    server, sent = WebServer(context), message()
    server.start()
    try:
        uri = f"https://127.0.0.1:{server.port}/"
        sink = open_sink(uri, {"ca": str(files.ca)})
        sink.write(sent)
        sink.close()
        for table in ({}, {"ca": str(files.other_ca)}):
            sink = open_sink(uri, table)
            with pytest.raises(SinkError, match="cannot be reached: its certificate is not trusted"):
                sink.write(sent)
            sink.close()
        assert server.messages == [sent]
    finally:
        server.stop()

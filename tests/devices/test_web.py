"""The daemon's port, asked as Prometheus, a service manager and a browser ask it; and as those who must not."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from edgernn.devices.daemon.config import HttpConfig
from edgernn.devices.daemon.counters import DaemonCounters
from edgernn.devices.daemon.fields import Address
from edgernn.devices.daemon.web import MOST_CONNECTIONS, MOST_VIEWERS, WebServer
from tests.devices.conftest import write_energy_artifact
from tests.devices.serving import Serving

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A daemon that has told something, with one of its two pipelines at its end."""
    folder = tmp_path_factory.mktemp("web")
    serving = Serving(folder, write_energy_artifact(folder / "energy").path)
    try:
        serving.wait_until("/health", '"ended"', '"running"')
        yield serving
    finally:
        serving.close()


@contextmanager
def stream(daemon: Serving, path: str = "/events") -> Iterator[HTTPResponse]:
    connection = HTTPConnection(*daemon.address, timeout=5)
    connection.request("GET", path)
    with connection.getresponse() as answer:
        yield answer


def events(answer: HTTPResponse, number: int) -> list[tuple[str, Any]]:
    """Read so many server-sent events."""
    found: list[tuple[str, Any]] = []
    name = ""
    while len(found) < number:
        line = answer.readline().decode()
        assert line, f"it ended after {found}"
        if line.startswith("event: "):
            name = line[7:].strip()
        elif line.startswith("data: "):
            found.append((name, json.loads(line[6:])))
    return found


def test_metrics_are_what_prometheus_reads(daemon: Serving) -> None:
    status, headers, text = daemon.get("/metrics")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    families = {family.name: family for family in parse_text(text)}
    values = {(s.name, *sorted(s.labels.values())): s.value for family in families.values() for s in family.samples}
    assert values["edgernn_frames_total", "kitchen"] == 1902
    assert values["edgernn_steps_total", "kitchen"] == 1902
    assert values["edgernn_events_total", "kitchen", "sound"] > 3
    assert values["edgernn_step_seconds_count", "kitchen"] == 1902
    assert values["edgernn_step_seconds_bucket", "+Inf", "kitchen"] == 1902
    assert values["edgernn_latency_seconds_count", "kitchen"] == values["edgernn_chunks_total", "kitchen"] == 952
    assert values["edgernn_dropped_samples_total", "kitchen", "late"] == 0
    assert values["edgernn_pipeline_state", "ended", "kitchen"] == 1
    assert values["edgernn_sink_up", "down"] == 0
    assert values["edgernn_sink_retries_total", "down"] > 0
    assert 1e7 < values["process_resident_memory_bytes",] < 1e9
    assert 0 < values["edgernn_uptime_seconds",] < 60
    digests = [sample.labels["digest"] for sample in families["edgernn_artifact_info"].samples]
    assert [len(digest) for digest in digests] == [64, 64]


def test_metrics_as_open_metrics(daemon: Serving) -> None:
    """Its parser is strict: units, suffixes, order, and the end of it all."""
    _, headers, text = daemon.get("/metrics", Accept=OPEN_METRICS)
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    kinds = {family.name: family.type for family in parse_open(text)}  # type: ignore[no-untyped-call]
    assert kinds["edgernn_frames"] == "counter"
    assert kinds["edgernn_pipeline_state"] == "stateset"
    assert kinds["edgernn_step_seconds"] == "histogram"
    assert not [name for name in kinds if not name.startswith(("edgernn", "process_"))]


def test_health_and_readiness(daemon: Serving) -> None:
    status, _, text = daemon.get("/health")
    health = json.loads(text)
    assert (status, health["healthy"]) == (200, True)
    assert health["pipelines"]["hall"]["state"] == "running"
    assert health["pipelines"]["hall"]["progress_age_s"] < 1
    assert "nobody" in health["sinks"]["down"]["fault"]
    [down] = health["down"]
    assert (down["what"], "nobody" in down["why"]) == ("sink down", True)
    assert 0 < down["for_s"] <= health["uptime_s"]
    status, _, text = daemon.get("/ready")
    assert (status, json.loads(text)["ready"]) == (200, True)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("192.168.4.2:8080", 200),
        ("[fe80::1]:8080", 200),
        (socket.gethostname(), 200),
        ("evil.example:8080", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("a:b:c", 421),
        ("", 421),
    ],
)
def test_names_that_others_lead_here_are_foreign(host: str, status: int, daemon: Serving) -> None:
    assert daemon.get("/ready", Host=host)[0] == status


def test_pages_of_other_sites_get_nothing(daemon: Serving) -> None:
    own = "{}:{}".format(*daemon.address)
    assert daemon.get("/health", Origin=f"http://{own}")[0] == 200
    assert daemon.get("/health", Origin="https://evil.example")[0] == 421
    assert daemon.get("/health", Origin="null")[0] == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"])
def test_only_get(method: str, daemon: Serving) -> None:
    status, headers, _ = daemon.get("/", method)
    assert (status, headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize("path", ["/nothing", "/../live.py", "/live.py", "/%2e%2e/web.py", "/metrics/"])
def test_nothing_else_is_there(path: str, daemon: Serving) -> None:
    assert daemon.get(path)[0] == 404


@pytest.mark.parametrize(
    "data", [b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"G" * 70000, b"\x16\x03\x01"]
)
def test_what_is_no_request_harms_nobody(data: bytes, daemon: Serving) -> None:
    with socket.create_connection(daemon.address, timeout=5) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    assert daemon.get("/ready")[0] == 200
    assert "Traceback" not in daemon.log


def test_page_is_told_what_happens(daemon: Serving) -> None:
    begin = time.monotonic()
    with stream(daemon, "/events?pipeline=hall") as answer:
        told = events(answer, 14)
    assert 0.5 < time.monotonic() - begin < 4, "a dozen a second"
    hello = told[0][1]
    assert (hello["pipeline"], hello["pipelines"]) == ("hall", ["hall", "kitchen"])
    assert hello["words"] == [{"word": "sound", "threshold": 0.6}]
    assert {name for name, _ in told} >= {"hello", "status", "sound"}
    heard = [data for name, data in told if name == "sound"]
    assert all(data["bands"] == 40 and data["row_s"] == 0.02 for data in heard)
    scores = [row for data in (hello, *heard) for row in data["scores"]]
    assert scores == sorted(scores), "none twice, none out of order"
    assert all(len(row) == 3 and 0 <= row[2] <= 1 for row in scores)


def test_page_sees_what_was_before_it(daemon: Serving) -> None:
    with stream(daemon, "/events?pipeline=kitchen") as answer:
        (_, hello), (_, status) = events(answer, 2)
    assert hello["scores"]
    assert len(hello["recent"]) == status["pipeline"]["words"]["sound"]
    assert status["pipeline"]["state"] == "ended"


def test_viewers_and_connections_are_bounded(daemon: Serving) -> None:
    daemon.wait_until("/metrics", "edgernn_http_viewers 0.0")
    with ExitStack() as stack:
        for _ in range(MOST_VIEWERS):
            assert stack.enter_context(stream(daemon)).status == 200
        assert daemon.get("/events")[0] == 503
        for _ in range(MOST_CONNECTIONS - MOST_VIEWERS):
            stack.enter_context(socket.create_connection(daemon.address))
        time.sleep(0.1)
        with pytest.raises((ConnectionError, OSError)):
            daemon.get("/ready")
    daemon.wait_until("/metrics", 'edgernn_http_dropped_total{cause="busy"}', "edgernn_http_viewers 0.0")
    with stream(daemon) as answer:  # the places are free again
        assert answer.status == 200


@pytest.mark.slow
def test_slow_clients_are_dropped_and_counted(daemon: Serving) -> None:
    """One that sends a request letter by letter, and one that opens the page and then takes nothing."""
    with socket.socket() as asleep, socket.create_connection(daemon.address) as slow:
        asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        asleep.connect(daemon.address)
        asleep.sendall(b"GET /events?pipeline=hall HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for letter in b"GET / HTTP/1.1\r\nX: " + 40 * b"y":
            try:
                slow.sendall(bytes([letter]))
            except ConnectionError:
                break
            time.sleep(0.5)
        else:
            pytest.fail("a letter each half second is taken for ever")
        daemon.wait_until("/metrics", 'edgernn_http_dropped_total{cause="slow"} 2.0', within_s=60)


def test_start_says_what_stands_in_its_way(tmp_path: Path, daemon: Serving) -> None:
    artifact = write_energy_artifact(tmp_path / "energy").path
    with pytest.raises(AssertionError, match=r"nothing can listen on 127\.0\.0\.1, port \d+: Address already in use"):
        Serving(tmp_path, artifact, "{}:{}".format(*daemon.address))
    with pytest.raises(AssertionError, match=r"http\.listen must be a host and a port"):
        Serving(tmp_path, artifact, "everywhere")


def test_a_time_without_threads_costs_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    server = WebServer(HttpConfig(Address("127.0.0.1", 0)), DaemonCounters())
    server.start()
    parts = urlsplit(server.url)
    try:
        with monkeypatch.context() as scarce:
            scarce.setattr("socketserver.threading.Thread.start", no_thread)
            for _ in range(MOST_CONNECTIONS + 1):
                with socket.create_connection((str(parts.hostname), int(parts.port or 0)), 5) as connection:
                    assert not connection.recv(1)
        asking = HTTPConnection(str(parts.hostname), int(parts.port or 0), timeout=5)
        asking.request("GET", "/health")
        assert asking.getresponse().status == 503  # no pipeline was tended
        asking.close()
    finally:
        server.stop()


def no_thread(_: Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_open_to_the_network_is_warned_of(tmp_path: Path) -> None:
    serving = Serving(tmp_path, write_energy_artifact(tmp_path / "energy").path, "0.0.0.0:0")
    try:
        assert "warning http://0.0.0.0:" in serving.log
        assert "there is no password" in serving.log
        assert serving.get("/ready")[0] in (200, 503)
    finally:
        serving.close()


@pytest.mark.slow
def test_reload_moves_the_port_and_begins_the_page_anew(tmp_path: Path) -> None:
    serving = Serving(tmp_path, write_energy_artifact(tmp_path / "energy").path)
    try:
        with stream(serving, "/events?pipeline=hall") as answer:
            assert events(answer, 1)[0][1]["words"] == [{"word": "sound", "threshold": 0.6}]
            serving.configure("threshold = 0.25")
            hellos = (data for _ in range(200) for name, data in events(answer, 1) if name == "hello")
            assert next(hellos)["words"] == [{"word": "sound", "threshold": 0.25}]
        old = serving.address
        with socket.create_server(("127.0.0.1", 0)) as taken:
            serving.configure(listen=f"127.0.0.1:{taken.getsockname()[1]}")
            wait_for(lambda: "there is no live page" in serving.log)
        assert serving.process.poll() is None
        serving.configure(listen="127.0.0.1:0")
        wait_for(lambda: serving.log.count("live page is at") == 2)
        serving.find_url()
        assert serving.address != old
        assert serving.get("/health")[0] == 200
    finally:
        serving.close()


def wait_for(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)

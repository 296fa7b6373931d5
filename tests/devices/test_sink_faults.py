"""From an event to its receiver through real faults, in one process; `test_faults.py` has those of a whole daemon."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgernn.devices.daemon.delivery import Delivery
from edgernn.devices.daemon.outbox import Outbox
from edgernn.devices.sinks import open_sink, sink_opener
from edgernn.errors import SinkError
from edgernn.events import Keyword, Message, Stamp
from tests.devices.receivers import UnixServer, WebServer

STAMP = Stamp()


def messages(count: int) -> list[Message]:
    return [STAMP("hall", Keyword("left", 0.9, 0.5, 1.0)) for _ in range(count)]


def until_empty(outbox: Outbox, sink: str, within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while outbox.depth(sink):
        assert time.monotonic() < end, f"{outbox.depth(sink)} events still wait"
        time.sleep(0.005)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[UnixServer]:
    server = UnixServer(tmp_path / "socket")
    server.start()
    yield server
    server.stop()


def test_a_json_file_on_a_full_disk_has_whole_lines_only(tmp_path: Path) -> None:
    path, (first, second, third) = tmp_path / "events.jsonl", messages(3)
    sink = open_sink(f"json:{path}")
    sink.write(first)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        with pytest.raises(SinkError, match=r"events.jsonl: File too large"):
            sink.write(second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    sink.close()
    sink = open_sink(f"json:{path}")
    for message in (second, third):
        sink.write(message)
    sink.close()
    assert [Message.from_json(line) for line in path.read_text().splitlines()] == [first, second, third]


def test_a_web_server_that_fails_now_and_then_gets_all(tmp_path: Path) -> None:
    server, sent = WebServer(), messages(30)
    server.start()
    chance = random.Random(2)
    server.statuses = [chance.choice([204, 500, 204, 429, 204]) for _ in range(20)]
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        delivery = Delivery("door", sink_opener(f"http://127.0.0.1:{server.port}/"), outbox)
        delivery._backoff.next_s = lambda: 0.001  # type: ignore[method-assign]
        delivery.start()
        for message in sent:
            outbox.put(message, ["door"])
        until_empty(outbox, "door")
        assert (delivery.stop(), delivery.refused) == (0, 0)
    server.stop()
    assert server.messages == sent


def test_a_slow_sink_delays_no_other(tmp_path: Path, server: UnixServer) -> None:
    sent = messages(40)
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        fast = Delivery("fast", sink_opener(f"unix:{server.path}"), outbox)
        slow = Delivery("slow", sink_opener("command:sleep 0.05"), outbox)
        for delivery in (fast, slow):
            delivery.start()
        for message in sent:
            outbox.put(message, ["fast", "slow"])
        until_empty(outbox, "fast", 1.5)
        assert outbox.depth("slow") > 5
        assert server.messages == sent
        slow.stop(0.0)
        fast.stop()

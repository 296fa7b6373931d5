"""From an event to its receiver through real faults: processes killed with -9, a disk that is full, a slow sink."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edgernn.devices.daemon.delivery import Delivery
from edgernn.devices.daemon.outbox import Outbox
from edgernn.devices.sinks import open_sink, sink_opener
from edgernn.errors import SinkError
from edgernn.events import Keyword, Message, Stamp
from tests.devices.receivers import UnixServer, WebServer

STAMP = Stamp()
DAEMON = """
import sys, time
from edgernn.devices.daemon.delivery import Delivery
from edgernn.devices.daemon.outbox import Outbox
from edgernn.devices.sinks import sink_opener
from edgernn.events import Keyword, Stamp
outbox, stamp = Outbox(sys.argv[1]), Stamp()
Delivery("door", sink_opener("unix:" + sys.argv[2]), outbox).start()
while True:
    message = stamp("hall", Keyword("left", 0.9, 0.5, 1.0))
    outbox.put(message, ["door"])
    print(message.id, flush=True)
    time.sleep(0.0005)
"""


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


@pytest.mark.slow
def test_a_daemon_killed_fifty_times_loses_nothing(tmp_path: Path, server: UnixServer) -> None:
    path, chance, said = tmp_path / "outbox.sqlite", random.Random(1), list[str]()
    for _ in range(50):
        words = [sys.executable, "-c", DAEMON, str(path), str(server.path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            first = process.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.15))
            os.kill(process.pid, signal.SIGKILL)
            said += [line.strip() for line in [first, *process.stdout] if line.endswith("\n")]
    with Outbox(path) as outbox:
        last = Delivery("door", sink_opener(f"unix:{server.path}"), outbox)
        last.start()
        until_empty(outbox, "door")
        assert last.stop() == 0
    heard = [message.id for message in server.messages]
    firsts = list(dict.fromkeys(heard))
    unsaid = set(firsts) - set(said)  # killed between the disk and the word about it
    assert [one for one in firsts if one not in unsaid] == said
    assert len(unsaid) <= 50
    assert len(heard) - len(firsts) <= 50  # no more than one repeat a kill
    print(f"{len(said)} events, {len(heard) - len(firsts)} repeats")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of 2 MB."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False).returncode:
        pytest.skip("this system does not mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(disk: Path) -> None:
    """Leave no byte."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        file.write(bytes(3_000_000))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_disk_full_fifty_times_loses_nothing(tmp_path: Path, server: UnixServer) -> None:
    sent, recoveries = messages(1000), list[float]()
    with small_disk(tmp_path / "disk") as disk, Outbox(disk / "outbox.sqlite") as outbox:
        away = Delivery("away", sink_opener(f"unix:{server.path}"), outbox)
        here = Delivery("here", sink_opener(f"json:{disk}/events.jsonl"), outbox)
        for delivery in (away, here):
            delivery.start()
        for begin in range(0, len(sent), 20):
            fill(disk)
            for message in sent[begin : begin + 20]:
                outbox.put(message, ["away", "here"])
            time.sleep(0.05)
            (disk / "filler").unlink()
            freed = time.monotonic()
            until_empty(outbox, "away")
            until_empty(outbox, "here")
            recoveries.append(time.monotonic() - freed)
        assert (away.stop(), here.stop()) == (0, 0)
        assert not outbox.dropped
        written = [Message.from_json(line) for line in (disk / "events.jsonl").read_text().splitlines()]
    assert server.messages == sent
    assert list(dict.fromkeys(written)) == sent
    print(f"{here.failures} failures, longest recovery {max(recoveries):.2f} s")
    assert here.failures > 10
    assert max(recoveries) < 5


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

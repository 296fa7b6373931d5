"""Lines for people and for the journal, and repeated ones that are counted."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from pathlib import Path

import pytest

from edgernn.devices.daemon.log import Repeats, set_up_log
from edgernn.devices.daemon.notify import Notify

log = logging.getLogger("edgernn.devices.daemon.test")


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("auto", "info")
    log.debug("not this")
    log.warning("%s: the source is back", "hall")
    line = capsys.readouterr().err
    assert line.endswith(" warning hall: the source is back\n")
    assert line.count("\n") == 1


def test_lines_for_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        monkeypatch.setattr(sys, "stderr", journal)
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        set_up_log("auto", "info")
        log.error("a line\nbreak")
    line = json.loads((tmp_path / "journal").read_text())
    assert (line["level"], line["message"], line["logger"]) == ("error", "a line\nbreak", log.name)
    assert line["time"].endswith("Z")


def test_repeated_lines_are_counted() -> None:
    now, passed = 0.0, []
    repeats = Repeats(lambda: now)

    def say(name: str) -> None:
        record = logging.LogRecord("x", logging.WARNING, "", 0, "%s: gone", (name,), None)
        if repeats.filter(record):
            passed.append((name, record.__dict__["left_out"]))

    for second in range(100):
        now = float(second)
        say("hall")
        if second % 20 == 0:
            say("kitchen")
    assert passed == [
        ("hall", 0), ("kitchen", 0), *[("hall", 0)] * 4, *[("kitchen", 0)] * 2, ("hall", 55), ("kitchen", 0),
        *[("hall", 0)] * 4, ("kitchen", 0),
    ]  # fmt: skip
    for number in range(10_000):
        say(str(number))
    assert len(repeats._kinds) <= 256


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        notify = Notify({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000000"})
        assert notify.watchdog_s == 20.0
        notify.ready()
        notify.status("all is well")
        assert [server.recv(100) for _ in range(2)] == [b"READY=1", b"STATUS=all is well"]
    notify.alive()  # nobody is there any more
    Notify({}).alive()
    assert Notify({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}).watchdog_s is None


def test_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0edgernn-test-notify")
        Notify({"NOTIFY_SOCKET": "@edgernn-test-notify"}).ready()
        assert server.recv(100) == b"READY=1"

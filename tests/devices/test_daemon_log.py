"""Lines for people and for the journal, and repeated ones that are counted."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from edgernn.devices.daemon.log import MOST_A_MINUTE, MOST_KINDS, Repeats, logged
from edgernn.devices.daemon.notify import Notify
from edgernn.devices.daemon.seldom import CALM_S, Seldom

log = logging.getLogger("edgernn.devices.daemon.test")


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with logged("auto", "info"):
        log.debug("not this")
        log.warning("%s: the source is back", "hall")
    line = capsys.readouterr().err
    assert line.endswith(" warning hall: the source is back\n")
    assert line.count("\n") == 1


def test_log_is_as_before_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger("edgernn")
    before = root.handlers[:], root.level, root.propagate
    with logged("text", "error"), logged("json", "debug"):
        log.debug("inner")
    log.error("nobody listens here")
    assert (root.handlers, root.level, root.propagate) == before
    assert json.loads(capsys.readouterr().err)["message"] == "inner"


def test_lines_for_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        monkeypatch.setattr(sys, "stderr", journal)
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        with logged("auto", "info"):
            log.error("a line\nbreak")
    line = json.loads((tmp_path / "journal").read_text())
    assert (line["level"], line["message"], line["logger"]) == ("error", "a line\nbreak", log.name)
    assert line["time"].endswith("Z")


class Month:
    """A log on a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.passed: list[tuple[float, str]] = []
        self._repeats = Repeats(lambda: self.now_s)

    def say(self, name: str) -> None:
        """Say what repeats, about something."""
        record = logging.LogRecord("x", logging.WARNING, "", 0, "%s: gone", (name,), None)
        if self._repeats.filter(record):
            self.passed.append((self.now_s, f"{name} {record.__dict__['left_out']}"))


def test_repeated_lines_are_counted() -> None:
    month = Month()
    for second in range(100):
        month.now_s = second
        month.say("hall")
        if second % 20 == 0:
            month.say("kitchen")
    hall = [line for line in month.passed if "hall" in line[1]]
    assert hall == [*((float(second), "hall 0") for second in range(5)), (60.0, "hall 55")]
    assert len(month.passed) == len(hall) + 5
    month.now_s += CALM_S + 1
    month.say("hall")
    assert month.passed[-1] == (700.0, "hall 39"), "after a calm, it is told at once"


@pytest.mark.parametrize(("every_s", "days", "lines"), [(0.5, 0.1, 10), (50.0, 30, 40), (500.0, 30, 40)])
def test_a_month_of_the_same_is_few_lines(every_s: float, days: float, lines: int) -> None:
    month = Month()
    while month.now_s < days * 86400:
        month.say("hall")
        month.now_s += every_s
    assert len(month.passed) < lines
    assert max(b - a for (a, _), (b, _) in pairwise(month.passed)) < 86400 + 501


def test_many_kinds_are_bounded_too() -> None:
    month = Month()
    for number in range(10_000):
        month.say(str(number))
    assert len(month.passed) == MOST_A_MINUTE
    assert len(month._repeats._kinds) <= MOST_KINDS
    month.now_s = 60.0
    month.say("another")
    assert len(month.passed) == MOST_A_MINUTE + 1


def test_a_broker_that_is_down_for_a_month(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    seldom = Seldom(log, clock=lambda: now[0])
    seldom.over("nothing was wrong")
    while now[0] < 30 * 86400:
        seldom.warning("the sink %s fails", "door")
        now[0] += 20.0
    assert caplog.messages[0] == "the sink door fails"
    assert caplog.messages[1] == "the sink door fails (and 2 like this one since the last)"
    seldom.over("the sink %s is well again", "door")
    assert len(caplog.messages) < 40
    assert caplog.messages[-1] == "the sink door is well again after 30 days, 129,600 tries"
    seldom.warning("the sink %s fails", "door")
    assert caplog.messages[-1] == "the sink door fails"


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

"""The outbox, with a real file: killed, and filled up."""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgernn.devices.daemon import outbox as outbox_module
from edgernn.devices.daemon import queue_file
from edgernn.devices.daemon.outbox import Outbox
from edgernn.devices.daemon.queue_file import QueueFile, Row
from edgernn.errors import FailureError
from edgernn.events import Keyword, Message, Stamp
from tests.devices.needs import needs_root
from tests.devices.quick_folder import quick_folder
from tests.devices.small_disk import fill, small_disk

__all__ = ["message", "messages", "path", "put_all", "taken"]

STAMP = Stamp()


def message(word: str = "left") -> Message:
    return STAMP("hall", Keyword(word, 0.9, 0.5, 1.0))


def messages(count: int, word: str = "left") -> list[Message]:
    return [message(word) for _ in range(count)]


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder / "outbox.sqlite"


def taken(outbox: Outbox, sink: str) -> list[Message]:
    """Take everything off a queue, one by one."""
    found = []
    while some := outbox.take(sink, 1):
        found += some
        outbox.done(sink, [some[0].id])
    return found


def put_all(outbox: Outbox, sent: list[Message]) -> None:
    for one in sent:
        outbox.put(one, ["a"])


@given(st.lists(st.sampled_from(["put a", "put b", "put both", "take", "done", "give back", "reopen"]), max_size=40))
@settings(max_examples=25, deadline=None)
def test_it_is_a_list_for_each_sink_that_outlives_the_process(actions: list[str]) -> None:
    with quick_folder() as folder:
        lists = {"a": list[Message](), "b": list[Message]()}
        outbox = act(folder / "outbox.sqlite", lists, actions)
        assert {sink: taken(outbox, sink) for sink in lists} == lists
        assert not outbox.dropped
        outbox.close()


def act(path: Path, lists: dict[str, list[Message]], actions: list[str]) -> Outbox:
    """Do to an outbox, and to lists, the same."""
    outbox, held = Outbox(path), list[Message]()
    for action in actions:
        if action.startswith("put"):
            sinks = ["a", "b"] if action == "put both" else [action[-1]]
            outbox.put(new := message("naïve\n"), sinks)
            for sink in sinks:
                lists[sink].append(new)
        elif action == "take":
            held = outbox.take("a", 3)
            assert held == lists["a"][:3]
        elif action == "reopen":
            outbox.close()
            outbox, held = Outbox(path), []
        else:
            ids = [one.id for one in held[1:]] if action == "done" else []
            outbox.done("a", ids)
            lists["a"] = [one for one in lists["a"] if one.id not in ids]
            held = []
        assert {sink: outbox.depth(sink) for sink in lists} == {sink: len(lists[sink]) for sink in lists}
    return outbox


@pytest.mark.parametrize("bound", [{"most_events": 10}, {"most_bytes": 10 * len(message().to_json()) + 60}])
def test_a_full_one_drops_the_oldest_and_counts_them(path: Path, bound: dict[str, int]) -> None:
    sent = messages(25)
    with Outbox(path, **bound) as outbox:
        for one in sent:
            outbox.put(one, ["a"])
        assert outbox.dropped == {"queue full": 15}
        assert taken(outbox, "a") == sent[15:]
        outbox.put(sent[0], ["a"])
        assert taken(outbox, "a") == sent[:1]


def test_making_a_lot_of_room_takes_few_looks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it is told to hold less than it has; one look for each event took a minute for 6000 of them."""
    sent, looks, oldest = messages(400), list[int](), QueueFile.oldest

    def counted(file: QueueFile, limit: int, sink: str | None = None) -> list[Row]:
        looks.append(limit)
        return oldest(file, limit, sink)

    with Outbox(path) as outbox:
        for one in sent:
            outbox.put(one, ["a"])
    monkeypatch.setattr(QueueFile, "oldest", counted)
    with Outbox(path, most_events=100) as outbox:
        looks.clear()
        outbox.put(sent[0], ["b"])
        assert len(looks) < 12
        assert outbox.dropped == {"queue full": 301}
        assert outbox.take("a", 1) == sent[301:302]


def test_what_is_being_delivered_is_not_dropped(path: Path) -> None:
    sent = messages(4)
    with Outbox(path, most_events=2) as outbox:
        outbox.put(sent[0], ["a"])
        assert outbox.take("a", 1) == sent[:1]
        for one in sent[1:]:
            outbox.put(one, ["a"])
        assert outbox.dropped == {"queue full": 2}
        outbox.done("a", [sent[0].id])
        assert taken(outbox, "a") == sent[3:]


def test_sinks_that_are_gone_are_given_up(path: Path) -> None:
    with Outbox(path) as outbox:
        for one in messages(3):
            outbox.put(one, ["old", "new"])
        outbox.retain(["new"])
        assert (outbox.depth("old"), outbox.depth("new")) == (0, 3)
        assert outbox.dropped == {"sink removed": 3}


PUTTING = """
import sys
from edgernn.devices.daemon.outbox import Outbox
from edgernn.events import Keyword, Stamp
outbox, stamp = Outbox(sys.argv[1]), Stamp()
while True:
    message = stamp("hall", Keyword("left", 0.9, 0.5, 1.0))
    outbox.put(message, ["a"])
    print(message.id, flush=True)
    if outbox.depth("a") > 40:
        outbox.done("a", [outbox.take("a", 1)[0].id])
"""


def killed_while_putting(path: Path, after_s: float) -> list[str]:
    """Return the ids that a process said it had put, before it was killed."""
    words = [sys.executable, "-c", PUTTING, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        first = process.stdout.readline()
        time.sleep(after_s)
        os.kill(process.pid, signal.SIGKILL)
        return [line.strip() for line in [first, *process.stdout] if line.endswith("\n")]


def test_nothing_is_lost_by_a_kill(tmp_path: Path) -> None:
    path, chance = tmp_path / "outbox.sqlite", random.Random(2)
    for _ in range(2):
        said = killed_while_putting(path, chance.uniform(0.0, 0.1))
        with Outbox(path) as outbox:
            found = [one.id for one in taken(outbox, "a")]
        begin = said.index(found[0])  # what the process had taken off is gone
        assert begin <= max(0, len(said) - 40)
        assert found[: len(said) - begin] == said[begin:]
        assert len(found) <= len(said) - begin + 1  # killed before it could say so


@contextmanager
def files_end_at(most_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_nothing_loses_nothing_that_memory_holds(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(outbox_module, "MOST_IN_MEMORY", 30)
    monkeypatch.setattr(queue_file, "make_room", lambda *_: None)
    sent = messages(10)
    with Outbox(path) as outbox:
        for one in sent:
            outbox.put(one, ["a"])
        late = messages(50, "right" * 1000)
        with files_end_at(path.with_name(path.name + "-wal").stat().st_size):
            for one in late:
                outbox.put(one, ["a"])
            assert outbox.in_memory == 30
            assert outbox.dropped == {"disk error": 20}
            held = outbox.take("a", 12)  # some on the disk, some in memory
            assert held == [*sent, *late[20:22]]
            outbox.done("a", [one.id for one in held])  # cannot be written either
            assert outbox.take("a", 1) == [late[22]]
        outbox.put(sent[0], ["a"])
        assert outbox.in_memory == 0
    with Outbox(path) as outbox:
        assert taken(outbox, "a") == [*late[22:], sent[0]]
    begin, end = caplog.messages
    assert begin.endswith("takes nothing, events wait in memory: disk I/O error")
    assert end.endswith("can be written again: 29 events go there, after 0.0 s, 53 tries")


@needs_root
def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "300k") as filler:
        sent = messages(60, "left" * 500)
        fill(filler)
        with Outbox(disk / "outbox.sqlite") as outbox:  # full from the beginning
            for one in sent[:20]:
                outbox.put(one, ["a"])
            assert outbox.in_memory == 20
            assert outbox.take("a", 2) == sent[:2]
            outbox.done("a", [sent[0].id])
            filler.unlink()
            outbox.put(sent[20], ["a"])
            assert (outbox.in_memory, outbox.depth("a")) == (0, 20)
            for one in sent[21:]:
                outbox.put(one, ["a"])
            assert outbox.in_memory > 0
            assert taken(outbox, "a") == sent[1:]
            assert not outbox.dropped
        with Outbox(disk / "outbox.sqlite") as outbox:  # what could not be noted as delivered comes again
            again = taken(outbox, "a")
            assert again == [one for one in sent if one in again]


@needs_root
@pytest.mark.parametrize("kill", [False, True])
def test_events_land_on_a_full_disk_in_the_room_that_was_kept(tmp_path: Path, kill: bool) -> None:
    """So that nothing is lost if the process is killed, or begins anew, before there is any room again."""
    path, sent = tmp_path / "disk" / "outbox.sqlite", messages(1200)
    with small_disk(path.parent, "4m") as filler:
        with Outbox(path) as outbox:
            fill(filler)
            for one in sent[:400]:
                outbox.put(one, ["a"])
            assert outbox.in_memory == 0
        outbox = Outbox(path)  # ended and begun on the full disk
        for one in sent[400:]:
            outbox.put(one, ["a"])
        assert (outbox.in_memory, outbox.dropped) == (0, {})
        if kill:
            for file in path.parent.glob("outbox.sqlite*"):  # as a kill leaves them
                (tmp_path / file.name).write_bytes(file.read_bytes())
            path = tmp_path / path.name
        else:
            outbox.close()
        with Outbox(path) as again:
            assert taken(again, "a") == sent
        outbox.close()


def test_an_event_of_another_version_is_passed_over(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.put(message(), ["a"])
    with closing(sqlite3.connect(path)) as file:
        file.execute("UPDATE queue SET line = '{}'")
        file.commit()
    with Outbox(path) as outbox:
        outbox.put(second := message(), ["a"])
        assert outbox.take("a", 1) == [second]
        assert (outbox.dropped, outbox.depth("a")) == ({"unreadable": 1}, 1)


def test_two_daemons_with_one_queue_are_refused(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_file, "LOCK_WAIT_S", 0.05)
    with Outbox(path), pytest.raises(FailureError, match="in use: does another daemon run"):
        Outbox(path)
    for nowhere in (tmp_path, tmp_path / "no" / "outbox.sqlite"):
        with pytest.raises(FailureError, match="cannot be opened: expected a file that may be written"):
            Outbox(nowhere)


def test_several_threads_put_and_take(path: Path) -> None:
    found: list[Message] = []
    with Outbox(path) as outbox:
        threads = [threading.Thread(target=put_all, args=(outbox, messages(50))) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(found) < 200:
            found += taken(outbox, "a")
        for thread in threads:
            thread.join()
        assert outbox.depth("a") == 0
    assert len({one.id for one in found}) == 200

"""The outbox whose file was damaged, or taken away."""

from __future__ import annotations

import itertools
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgernn.devices.daemon import queue_file
from edgernn.devices.daemon.outbox import Outbox
from edgernn.events import Message
from tests.devices.quick_folder import quick_folder
from tests.devices.test_outbox import message, messages, path, put_all, taken

__all__ = ["path"]


def test_a_file_that_is_no_database_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"no database " * 1000)
    with Outbox(path) as outbox:
        outbox.put(message(), ["a"])
        assert outbox.depth("a") == 1
    assert path.with_name("outbox.sqlite.damaged").read_bytes().startswith(b"no database")
    (line,) = caplog.messages
    assert "is damaged (file is not a database): set aside as" in line


@given(st.integers(1, 30_000), st.binary(min_size=1, max_size=4000))
@settings(max_examples=15, deadline=None)
def test_a_damaged_file_never_stops_it(place: int, noise: bytes) -> None:
    sent = messages(60, "left" * 40)
    with quick_folder() as folder:
        path = folder / "outbox.sqlite"
        with Outbox(path) as outbox:
            put_all(outbox, sent)
        with path.open("r+b") as file:
            file.seek(place)
            file.write(noise)
        with Outbox(path) as outbox:
            found = taken(outbox, "a")
            outbox.put(new := message(), ["a"])
            assert taken(outbox, "a") == [new]
    numbers = [int(one.id.rpartition("-")[2]) for one in found if one in sent]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("noise", [b"\xff\xfe", b"000", b"\0\0\0"])
def test_wherever_a_few_bytes_are_damaged_what_comes_then_is_delivered_once(noise: bytes) -> None:
    """SQLite looks at neither the text of a row nor its kind; an event may be lost with them, but no other."""
    rng = random.Random(0)
    with quick_folder() as folder:
        path = folder / "outbox.sqlite"
        with Outbox(path) as outbox:
            put_all(outbox, messages(30, "left" * 10))
        whole = {file: file.read_bytes() for file in folder.iterdir()}
        written = [place for place, byte in enumerate(whole[path]) if byte]
        for place in rng.sample(written, 100):
            for file, content in whole.items():
                file.write_bytes(content)
            with path.open("r+b") as damaged:
                damaged.seek(place)
                damaged.write(noise)
            with Outbox(path) as outbox:
                outbox.put(new := message(), ["a"])
                found = list[Message]()
                for one in itertools.islice(iter(lambda: outbox.take("a", 1), []), 40):
                    found += one
                    outbox.done("a", [one[0].id])
                assert (found[-1:], outbox.depth("a"), outbox.fault) == ([new], 0, None), place


@pytest.mark.parametrize("step", ["_set_aside", "_put_in_place"])
def test_kill_while_a_damaged_file_is_mended_loses_nothing(
    step: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, calls = messages(20), list[Path]()
    with Outbox(path) as outbox:
        put_all(outbox, sent)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 7")
    done = getattr(queue_file, step)

    def killed(path: Path) -> None:
        calls.append(path)
        done(path)
        if step == "_set_aside" or len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(queue_file, step, killed)
        with pytest.raises(KeyboardInterrupt):
            Outbox(path)
    with Outbox(path) as outbox:
        assert taken(outbox, "a") == sent
        assert (outbox.dropped, outbox.in_memory) == ({}, 0)


def test_a_file_damaged_while_it_is_open_is_set_aside(path: Path) -> None:
    outbox = Outbox(path)
    for one in messages(100, "left" * 100):
        outbox.put(one, ["a"])
    outbox.close()
    with Outbox(path) as outbox:
        path.write_bytes(b"no database " * (path.stat().st_size // 12))
        for one in (new := messages(100, "right" * 100)):
            outbox.put(one, ["a"])
            outbox.take("a", 400)
        assert taken(outbox, "a")[-100:] == new


def test_a_file_that_is_removed_while_it_is_open_begins_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sent = messages(5)
    with Outbox(path) as outbox:
        put_all(outbox, sent[:3])
        outbox.done("a", [outbox.take("a", 1)[0].id])
        for file in path.parent.glob("outbox.sqlite*"):
            file.unlink()
        put_all(outbox, sent[3:])
        assert path.exists()
    with Outbox(path) as outbox:
        assert taken(outbox, "a") == sent[1:]
    assert [line for line in caplog.messages if "was taken away" in line] == caplog.messages

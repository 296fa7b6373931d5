"""From the outbox to a sink that fails, is slow, refuses, or is gone."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgernn.devices.daemon import delivery as delivery_module
from edgernn.devices.daemon import supervisor as supervisor_module
from edgernn.devices.daemon.backoff import Backoff
from edgernn.devices.daemon.config import SinkConfig
from edgernn.devices.daemon.delivery import Delivery
from edgernn.devices.daemon.outbox import Outbox
from edgernn.devices.daemon.supervisor import Supervisor
from edgernn.errors import RefusedError, SinkError, UsageError
from edgernn.events import Keyword, Message, Stamp
from edgernn.testing import ListSink
from tests.devices.quick_folder import quick_folder

STAMP = Stamp()


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


class Quick(Backoff):
    """Waits next to nothing."""

    def next_s(self) -> float:
        """Return a millisecond."""
        return 0.001


class Target:
    """What a sink writes to: it outlives the sink, and does at each write what `moods` says."""

    def __init__(self, *moods: str) -> None:
        self.arrived: list[Message] = []
        self.times: list[float] = []
        self.opened = self.closed = 0
        self.released = threading.Event()
        self._moods = list(moods)

    def open(self) -> Target:
        """Open a sink."""
        self.opened += 1
        if self._moods and self._moods[0] == "no opening":
            self._moods.pop(0)
            raise UsageError("it cannot be opened")
        return self

    def write(self, message: Message) -> None:
        """Take a message, or fail."""
        mood = self._moods.pop(0) if self._moods else "well"
        if mood == "refuse":
            raise RefusedError("not this one")
        if mood == "bug":
            raise ZeroDivisionError("division by zero")
        if mood == "later":
            later = SinkError("not just now")
            later.wait_s = 1e9
            raise later
        if mood == "slow":
            time.sleep(0.02)
        if mood == "hangs":
            self.released.wait(5)
        if mood != "lost":
            self.arrived.append(message)
            self.times.append(time.perf_counter())
        if mood in ("lost", "late"):  # late: it arrived, and nobody knows
            raise SinkError("it went away")

    def close(self) -> None:
        """Close one sink."""
        self.closed += 1


@contextmanager
def delivering(path: Path, target: Target, backoff: Backoff | None = None) -> Iterator[tuple[Outbox, Delivery]]:
    outbox = Outbox(path / "outbox.sqlite")
    delivery = Delivery("door", target.open, outbox, backoff)
    try:
        yield outbox, delivery
    finally:
        delivery.stop(5.0)
        outbox.close()


def put(outbox: Outbox, count: int) -> list[Message]:
    messages = [STAMP("hall", Keyword("left", 0.9, 0.5, 1.0)) for _ in range(count)]
    for message in messages:
        outbox.put(message, ["door"])
    return messages


def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.002)


def test_an_event_arrives_at_once(folder: Path) -> None:
    target = Target()
    with delivering(folder, target) as (outbox, delivery):
        delivery.start()
        waits = []
        for number in range(20):
            time.sleep(0.005)
            put(outbox, 1)
            begin = time.perf_counter()  # the disk is waited for before that
            until(lambda number=number: len(target.arrived) > number)  # type: ignore[misc]
            waits.append(target.times[-1] - begin)
        assert sorted(waits)[10] < 0.05
        assert (delivery.delivered, delivery.fault) == (20, None)


MOODS = st.lists(st.sampled_from(["well", "lost", "late", "refuse", "bug", "no opening"]), max_size=20)


@given(MOODS)
@settings(max_examples=20, deadline=None)
def test_whatever_the_sink_does_order_is_kept_and_nothing_is_lost(moods: list[str]) -> None:
    target = Target(*moods)
    with quick_folder() as folder, delivering(folder, target, backoff=Quick()) as (outbox, delivery):
        sent = put(outbox, 5)
        delivery.start()
        until(lambda: outbox.depth("door") == 0)
        sent += put(outbox, 10)
        until(lambda: outbox.depth("door") == 0)
        assert delivery.stop(5.0) == 0
    refused = delivery.refused
    firsts = list(dict.fromkeys(target.arrived))
    assert firsts == [one for one in sent if one in firsts]
    assert len(firsts) >= len(sent) - refused
    assert len(target.arrived) - len(firsts) <= moods.count("late")
    assert delivery.delivered + refused == len(sent)
    assert not delivery.alive


def test_one_failure_is_one_line_in_the_log_and_one_when_it_is_over(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    target = Target("lost", "lost", "no opening", "lost", "well")
    with delivering(folder, target, backoff=Quick()) as (outbox, delivery):
        delivery.start()
        put(outbox, 1)
        until(lambda: outbox.depth("door") == 0)
    first, last = caplog.messages
    assert first == "the sink door fails, 1 events wait: it went away"
    assert last == "the sink door is well again after 0.0 s, 4 tries"
    assert (delivery.failures, target.opened) == (4, 5)
    assert target.closed == 4  # one opening failed


def test_a_sink_is_left_alone_as_long_as_it_asks_but_not_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "LONGEST_ASKED_S", 0.3)
    target = Target("later")
    with delivering(folder, target, backoff=Quick()) as (outbox, delivery):
        begin = time.perf_counter()
        put(outbox, 1)
        delivery.start()
        until(lambda: target.arrived != [])
    assert target.times[0] - begin > 0.3, "and less than the 5 s that it is waited for"


def test_a_stop_drains_a_slow_sink_and_leaves_what_is_too_much(folder: Path) -> None:
    slow = Target(*["slow"] * 100)
    with delivering(folder, slow) as (outbox, delivery):
        sent = put(outbox, 100)
        delivery.start()
        until(lambda: slow.arrived != [])
        begin = time.monotonic()
        left = delivery.stop(0.3)
        assert time.monotonic() - begin < 1, "all of it takes 2 s"
        until(lambda: not delivery.alive)
        assert 75 < outbox.depth("door") <= left < 100
    again = ListSink()
    with Outbox(folder / "outbox.sqlite") as outbox:
        after = Delivery("door", lambda: again, outbox)
        after.start()
        assert after.stop(5.0) == 0
    assert again.messages == sent[len(slow.arrived) :]


def test_a_stop_does_not_wait_for_a_sink_that_is_down_or_hangs(folder: Path) -> None:
    down = Target(*["no opening"] * 1000)
    with delivering(folder, down) as (outbox, delivery):
        put(outbox, 3)
        delivery.start()
        until(lambda: delivery.failures > 0)
        begin = time.monotonic()
        assert delivery.stop(5.0) == 3
        assert time.monotonic() - begin < 2
    hangs = Target("hangs")
    with Outbox(folder / "outbox.sqlite") as outbox:
        delivery = Delivery("door", hangs.open, outbox)
        delivery.start()
        assert delivery.stop(0.1) == 3
    hangs.released.set()
    until(lambda: not delivery.alive)  # the outbox is closed by now: nothing breaks
    with Outbox(folder / "outbox.sqlite") as outbox:
        assert outbox.depth("door") == 3


def test_waits_double_and_are_never_long() -> None:
    for seed in range(20):
        backoff = Backoff(random.Random(seed))
        waits = [backoff.next_s() for _ in range(200)]
        assert 0.05 <= waits[0] <= 0.1
        assert max(waits) <= 4.0
        assert min(waits[6:]) >= 2.0


def test_one_sink_takes_the_place_of_another_without_a_pause(folder: Path) -> None:
    hangs, fresh = Target("well", "hangs"), Target()
    with delivering(folder, hangs) as (outbox, old):
        sent = put(outbox, 3)
        old.start()
        until(lambda: len(hangs.arrived) == 1)
        begin = time.monotonic()
        old.end(0.0)
        new = Delivery("door", fresh.open, outbox, after=old)
        new.start()
        assert time.monotonic() - begin < 2, "it would wait for 5 s"
        time.sleep(0.05)
        assert not fresh.opened, "the old one still writes"
        hangs.released.set()
        until(lambda: outbox.depth("door") == 0)
        assert new.stop() == 0
    assert (hangs.arrived, fresh.arrived) == (sent[:2], sent[2:])


def test_a_reload_waits_for_no_sink(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "DRAIN_S", 0.2)
    supervisor = Supervisor(lambda: pytest.fail("nothing is loaded"))
    with Outbox(folder / "outbox.sqlite") as outbox:
        supervisor._outbox = outbox
        slow = SinkConfig(
            "door", f"command:sh -c 'touch {folder}/began; until [ -e {folder}/go ]; do sleep 0.02; done'"
        )
        supervisor._open_sinks({"door": slow, "gone": SinkConfig("gone", "command:sleep 3")}, [])
        until(lambda: not supervisor._unswept)
        sent = [STAMP("hall", Keyword("left", 0.9, 0.5, 1.0)) for _ in range(3)]
        for message in sent:
            outbox.put(message, ["door", "gone"])
        until((folder / "began").exists)
        old = supervisor._deliveries["door"]
        supervisor._open_sinks({"door": SinkConfig("door", f"json:{folder}/events")}, [])
        assert old.alive, "it still writes"
        assert outbox.depth("gone") == 3, "it has its time to deliver what waits"
        (folder / "go").touch()
        until(lambda: outbox.depth("door") == 0)
        while supervisor._unswept:  # as the main thread does, four times a second
            supervisor._sweep()
        assert (outbox.depth("gone"), outbox.dropped) == (0, {"sink removed": 3})
        assert supervisor._deliveries["door"].stop() == 0
    lines = (folder / "events").read_text().splitlines()
    assert [Message.from_json(line).id for line in lines] == [message.id for message in sent[1:]]

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.devices.sources.pace import AHEAD_S, MOST_S, SOONER_S, Pace
from edgernn.devices.sources.pieces import Pieces
from edgernn.devices.sources.stdin import StdinSource

RATE = 16000
SLACK_S = 0.008


class Reader:
    """Reads pieces from a program that hands over `burst` samples at a time, in simulated time."""

    def __init__(self, burst: int, arrives_s: Callable[[float], float]) -> None:
        self.now_s, self.position, self.wake_ups = 100.0, 0, 0
        self._burst, self._arrives_s = burst, arrives_s
        self._pace = Pace(RATE, SLACK_S, lambda: self.now_s, self._sleep)

    def _sleep(self, seconds: float) -> None:
        assert 0 < seconds <= MOST_S
        self.now_s += seconds
        self.wake_ups += 1

    def read(self, piece: int) -> float:
        """Read a piece; return for how long it lay there."""
        needed = self.position + piece
        self._pace.wait_for(needed)
        whole = -(-needed // self._burst) * self._burst
        came_s = self._arrives_s(whole / RATE)
        waited = came_s > self.now_s
        if waited:
            self.wake_ups += 1
            self.now_s = came_s
        self.position = whole
        while self._arrives_s((self.position + self._burst) / RATE) <= self.now_s:
            self.position += self._burst
        self._pace.came(self.position, self.now_s, waited)
        return self.now_s - came_s


@given(st.integers(100, 4000), st.integers(200, 4000), st.floats(-300e-6, 300e-6))
def test_nothing_lies_there_longer_than_the_slack(burst: int, piece: int, drift: float) -> None:
    reader = Reader(burst, lambda said_s: 100 + said_s * (1 + drift))
    lay_s = [reader.read(piece) for _ in range(300)]
    assert max(lay_s) < SLACK_S + 10 * SOONER_S
    assert reader.now_s > 100 + 300 * piece / RATE * (1 - 1e-3) - MOST_S


def test_a_piece_wakes_once_where_its_end_is_met() -> None:
    reader = Reader(320, lambda said_s: 100 + said_s)
    for _ in range(20):
        reader.read(1840)
    before = reader.wake_ups
    for _ in range(100):
        reader.read(1840)
    assert reader.wake_ups - before < 200


def test_a_source_ahead_of_its_rate_is_not_slept_for() -> None:
    reader = Reader(2048, lambda said_s: 100 + said_s / 50)
    for _ in range(100):
        reader.read(2048)
    assert reader.now_s <= 100 + reader.position / RATE / 50 + AHEAD_S


@pytest.mark.parametrize("pause_s", [0.3, 2.0])
def test_a_source_that_paused_is_followed(pause_s: float) -> None:
    reader = Reader(640, lambda said_s: 100 + said_s + (pause_s if said_s > 2 else 0))
    lay_s = [reader.read(640) for _ in range(5000)]
    assert max(lay_s) < SLACK_S + 10 * SOONER_S
    before = reader.wake_ups
    for _ in range(100):
        reader.read(640)
    assert reader.wake_ups - before < 130


def test_a_source_that_catches_up_after_a_pause_is_not_heard_later_then() -> None:
    def arrives_s(said_s: float) -> float:
        return 100 + max(said_s, min(said_s, 2) + 4 + said_s / 50 if said_s > 2 else 0)

    reader = Reader(640, arrives_s)
    lay_s = [reader.read(1600) for _ in range(300)]
    assert max(lay_s) < SLACK_S + 10 * SOONER_S


def hear_live() -> tuple[int, float]:
    """Hear what a program says in 2 s; return in how many chunks, and how late most of them were."""
    reading, writing = os.pipe()

    def say() -> None:
        begin = time.monotonic()
        with os.fdopen(writing, "wb", buffering=0) as program:
            for number in range(200):
                time.sleep(max(0.0, begin + (number + 1) * 0.01 - time.monotonic()))
                program.write(np.full(160, number, "<i2").tobytes())

    said = threading.Thread(target=say)
    said.start()
    with os.fdopen(reading, "rb") as stream:
        begin = time.monotonic()
        source = StdinSource(RATE, RATE, stream, Pieces(1600, 1600))
        chunks = [(len(chunk.samples), chunk.time_s - begin) for chunk in source]
    said.join()
    lengths, times = np.array(chunks).T
    assert lengths.sum() == 32000
    return len(lengths), float(np.median(times - lengths.cumsum() / RATE))


def test_live_standard_input_is_heard_in_few_wake_ups_and_at_once() -> None:
    for _ in range(3):  # a busy machine delays all, but not each time
        chunks, late_s = hear_live()
        assert chunks <= 25
        if late_s < 0.02:
            return
    pytest.fail(f"{late_s} s late")

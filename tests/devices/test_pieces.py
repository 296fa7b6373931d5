"""How much of a live source is heard at once."""

from __future__ import annotations

import io
import os
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.devices.sources.inbox import Inbox
from edgernn.devices.sources.pieces import Pieces
from edgernn.devices.sources.stdin import StdinSource


def stream(step: int, first: int, rate_hz: float) -> SimpleNamespace:
    return SimpleNamespace(step_samples=step, first_samples=first, rate_hz=rate_hz)


@pytest.mark.parametrize(
    ("step", "first", "longest_ms", "expected"),
    [
        (640, 880, 40, Pieces(240, 640)),  # four frames of 10 ms: a piece for each step
        (160, 400, 40, Pieces(400, 640)),  # one frame: four steps
        (640, 880, 20, Pieces(240, 320)),  # a step that is longer is cut
        (640, 640, 30, Pieces(320, 320)),
        (999, 999, 1, Pieces(9, 9)),
        (640, 640, 1000, Pieces(640, 16000)),
    ],
)
def test_pieces_end_where_steps_do(step: int, first: int, longest_ms: float, expected: Pieces) -> None:
    assert Pieces.of(stream(step, first, 16000), longest_ms) == expected


@given(st.integers(1, 2000), st.integers(0, 2000), st.floats(1, 1000), st.sampled_from([1.0, 50.0, 8000.0, 16000.0]))
def test_no_step_waits_for_a_sample_that_it_does_not_need(
    step: int, more: int, longest_ms: float, rate_hz: float
) -> None:
    pieces = Pieces.of(stream(step, step + more, rate_hz), longest_ms)
    assert 1 <= pieces.first <= pieces.each <= max(1, longest_ms / 1000 * rate_hz)
    ends = {step + more + number * step for number in range(pieces.each // step or 1)}
    assert any(pieces.missing(end) == pieces.each for end in ends)


def test_what_cannot_decide_anything_comes_together() -> None:
    quiet = 0
    pieces = Pieces.of(stream(640, 880, 16000), 40, lambda: quiet)
    assert [pieces.missing(position) for position in (0, 240, 250)] == [240, 640, 630]
    quiet = 1919
    assert [pieces.missing(position) for position in (0, 240, 250)] == [880, 1280, 1270]
    assert pieces.at(16000, 48000).missing(720) == 3840
    assert Pieces.of(stream(640, 880, 16000), 20, lambda: 9999).missing(240) == 320, "within a step, it is not known"


def test_pieces_of_another_rate() -> None:
    assert Pieces(240, 640).at(16000, 48000) == Pieces(720, 1920)
    assert Pieces().at(16000, 8000) == Pieces()


def test_standard_input_waits_for_a_piece_and_takes_what_is_there_beyond() -> None:
    reader, writer = os.pipe()
    pcm, first = np.arange(3000, dtype="<i2"), threading.Event()

    def feed() -> None:
        begin = 0
        for count in (50, 50, 301, 2199, 400):  # samples, of which one is cut in two
            os.write(writer, pcm.tobytes()[begin : begin + 2 * count - 1])
            begin += 2 * count - 1
            if count == 50 and begin > 100:
                first.wait(10)
            time.sleep(0.03)
        os.write(writer, pcm.tobytes()[begin:])
        os.close(writer)

    thread = threading.Thread(target=feed)
    raw: Any = io.FileIO(reader)
    with io.BufferedReader(raw) as pipe:
        thread.start()
        chunks = []
        for chunk in StdinSource(16000, 16000, pipe, Pieces(80, 320)):
            chunks.append(chunk)
            first.set()
    thread.join()
    np.testing.assert_array_equal(np.concatenate([chunk.samples for chunk in chunks]) * 32768, pcm)
    found = [len(chunk.samples) for chunk in chunks]
    assert found[0] in (99, 100)
    assert all(count >= 300 for count in found[1:-2])


def test_reader_of_an_inbox_sleeps_until_a_piece_is_there() -> None:
    inbox = Inbox(16000)
    inbox.gather(Pieces(100, 400), 16000)
    for number in range(10):
        inbox.put(np.full(100, number, np.float32))
    inbox.note("lost", 5, 5)
    inbox.put(np.full(100, 10, np.float32))
    inbox.end()
    chunks = list(inbox)
    assert [len(chunk.samples) for chunk in chunks] == [100, 400, 400, 100, 100]
    assert [chunk.lost for chunk in chunks] == [0, 0, 0, 0, 5]  # nothing is joined over a gap
    assert np.concatenate([chunk.samples for chunk in chunks])[::100].tolist() == list(range(11))
    times = [chunk.time_s for chunk in chunks]
    assert times == sorted(times)


def test_rest_of_a_piece_is_not_waited_for_in_vain() -> None:
    inbox = Inbox(16000)
    inbox.gather(Pieces(400, 400), 16000)
    inbox.put(np.zeros(100, np.float32))
    begin = time.monotonic()
    assert len(next(iter(inbox)).samples) == 100
    assert 0.04 < time.monotonic() - begin < 0.5
    later = threading.Timer(0.15, inbox.put, (np.zeros(50, np.float32),))  # when the reader has given up waiting
    later.start()
    assert len(next(iter(inbox)).samples) == 50
    later.join()


def test_piece_that_an_inbox_cannot_hold() -> None:
    inbox = Inbox(1, "skipped")
    inbox.gather(Pieces(10, 10), 10)
    inbox.put(np.zeros((1, 3), np.float32))
    assert len(next(iter(inbox)).samples) == 1

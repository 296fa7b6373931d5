from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgernn.decode.keyword import KeywordDecoder, KeywordSpec
from edgernn.errors import ShapeError, UsageError
from edgernn.event_stream import Stream
from edgernn.events import Event
from edgernn.frontend import FrontEnd, LogMel
from edgernn.spec import TensorSpec
from edgernn.stream import Context, FrameBatch, FrameStream
from edgernn.testing import ArraySource, FakeRunner, ListSink, check_runner, check_sink, check_source

PARAMS = LogMel(rate_hz=1000, window_samples=20, hop_samples=10, fft_size=32, bands=2, low_hz=10, high_hz=490)


def late(frames_per_step: int, delay: int) -> FakeRunner:
    """Return a runner whose output is declared to be late by `delay` frames."""
    runner = FakeRunner(features=2, frames_per_step=frames_per_step)
    runner.spec = dataclasses.replace(runner.spec, output_delays=(delay,))
    return runner


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=12), st.integers(1, 4), st.integers(0, 6))
def test_frames_in_any_cut_give_the_whole_sequence(sizes: list[int], per_step: int, delay: int) -> None:
    frames = np.random.default_rng(0).standard_normal((sum(sizes), 2)).astype(np.float32)
    stream = FrameStream(late(per_step, delay))
    parts = [stream.push(piece)[0] for piece in np.split(frames, np.cumsum(sizes))]
    whole = np.cumsum(frames, axis=0)
    ready = len(frames) // per_step * per_step
    np.testing.assert_allclose(np.concatenate(parts), whole[delay:ready], atol=1e-5)
    assert stream.steps == len(frames) // per_step


def test_output_for_each_step_drops_steps() -> None:
    class SumSoFar(FakeRunner):
        def step(self, *frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
            return (super().step(*frames)[0][:, -1],)

    runner, output = SumSoFar(features=2), TensorSpec("y", (1, 2))
    runner.spec = dataclasses.replace(runner.spec, outputs=(output,), output_delays=(2,), output_kinds=("prefix",))
    stream = FrameStream(runner)
    assert stream.push(np.ones((2, 2), np.float32))[0].shape == (0, 2)
    np.testing.assert_array_equal(stream.push(np.ones((1, 2), np.float32))[0], [[3, 3]])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=9), st.integers(0, 9))
def test_streams_of_a_batch_come_at_their_own_pace(pieces: list[tuple[int, int]], restart: int) -> None:
    """Each stream's rows are the running sums of its own frames, from its own reset on."""
    batch = FrameBatch(FakeRunner(features=2, frames_per_step=3, batch=2))
    rng, given_, got = np.random.default_rng(0), [[], []], [[], []]  # type: ignore[var-annotated]
    for number, counts in enumerate(pieces):
        if number == restart:
            batch.reset(1)
            given_[1], got[1] = [], []
        frames = [rng.integers(-9, 9, (count, 2)).astype(np.float32) for count in counts]
        for stream, (rows,) in enumerate(batch.push([[array] for array in frames])):
            given_[stream].append(frames[stream])
            got[stream].append(rows)
    for stream in range(2):
        sums = np.cumsum(np.concatenate([*given_[stream], np.zeros((0, 2))]), axis=0)
        rows = np.concatenate([*got[stream], np.zeros((0, 2))])
        np.testing.assert_array_equal(rows, sums[: len(rows)])
        assert len(rows) + batch.waiting[stream] == len(sums)
    assert min(batch.waiting) < 3


def test_a_batch_is_not_one_stream() -> None:
    with pytest.raises(UsageError, match="2 streams at once: open it with FrameBatch"):
        FrameStream(FakeRunner(features=2, batch=2))
    with pytest.raises(ShapeError, match="2 streams at once, found 1"):
        FrameBatch(FakeRunner(features=2, batch=2)).push([[np.zeros((1, 2))]])
    with pytest.raises(UsageError, match="2 streams at once, and this is one"):
        Stream(FrontEnd(PARAMS), FakeRunner(2, batch=2), KeywordDecoder(KeywordSpec(), ("a", "b"), 0.01))


def test_no_frames_give_no_outputs() -> None:
    (output,) = FrameStream(FakeRunner(features=2)).push(np.zeros((0, 2), np.float32))
    assert output.shape == (0, 2)
    assert output.dtype == np.float32


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((1, 3), np.float32), r"\(n, 2\), found shape \(1, 3\)"),
        (np.zeros(2, np.float32), r"found shape \(2,\)"),
        ([[0.0, 0.0]], "found list"),
        (np.array([[0.0, np.nan]], np.float32), "found NaN or infinity"),
        (np.array([["a", "b"]]), "found dtype <U1"),
    ],
)
def test_frames_that_do_not_fit_are_named_and_not_taken(frames: NDArray[np.float32], words: str) -> None:
    stream = FrameStream(FakeRunner(features=2))
    with pytest.raises(ShapeError, match=words):
        stream.push(frames)
    with pytest.raises(ShapeError, match="1 inputs, found 2 arrays"):
        stream.push(np.zeros((1, 2)), np.zeros((1, 2)))
    np.testing.assert_array_equal(stream.push(np.ones((1, 2), np.float32))[0], [[1, 1]])


class CountingRunner(FakeRunner):
    """Says word 0 at every tenth step, word 1 otherwise; counts from the last reset."""

    def reset(self, stream: int | None = None, context: Context | None = None) -> None:
        super().reset(stream, context)
        self.count = 0

    def step(self, *frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        super().step(*frames)
        self.count += 1
        return (np.array([[[1.0, 0.0]] if self.count % 10 == 0 else [[0.0, 1.0]]], np.float32),)


def open_stream() -> Stream:
    spec = KeywordSpec("none", smoothing_ms=0, refractory_ms=0, ignore=("quiet",))
    return Stream(FrontEnd(PARAMS), CountingRunner(2), KeywordDecoder(spec, ("word", "quiet"), 0.01))


def ends(events: list[Event]) -> list[float]:
    return [event.end_s for event in events]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=8))
def test_samples_in_any_cut_give_the_same_events(cuts: list[int]) -> None:
    sound, stream = np.random.default_rng(0).normal(0, 0.1, 1010).astype(np.float32), open_stream()
    events = [event for piece in np.split(sound, sorted(cuts)) for event in stream.push(piece)]
    assert ends(events) == pytest.approx(np.arange(1, 11) / 10)
    assert (stream.samples, stream.frames, stream.steps, stream.events) == (1010, 100, 100, 10)


def test_short_gap_is_patched_and_long_gap_resets() -> None:
    sound = np.zeros(410, np.float32)
    stream = open_stream()
    stream.push(sound)
    assert ends(stream.push(sound[:100], lost=50)) == pytest.approx([0.5])  # 0.41 + 0.05 + 0.1 s: steps go on
    assert (stream.lost, stream.resets, stream.steps) == (50, 0, 55)
    events = stream.push(sound[:210], lost=1000)  # counted anew from 0.56 + 1 s on
    assert ends(events) == pytest.approx([1.66, 1.76])
    assert (stream.lost, stream.resets) == (1050, 1)


def test_reset_starts_the_clock_anew() -> None:
    stream = open_stream()
    first = ends(stream.push(np.zeros(310, np.float32)))
    stream.reset()
    assert ends(stream.push(np.zeros(310, np.float32))) == first == pytest.approx([0.1, 0.2, 0.3])


def test_warm_up_is_not_decoded_and_times_are_the_sounds() -> None:
    stream = open_stream()
    stream.runner.spec = dataclasses.replace(stream.runner.spec, output_delays=(5,))
    stream.reset()
    assert ends(stream.push(np.zeros(210, np.float32))) == pytest.approx([0.05, 0.15])


def test_nan_samples_are_refused() -> None:
    with pytest.raises(ShapeError, match="nan"):
        open_stream().push(np.array([0.0, np.nan], np.float32))


def test_front_end_that_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(UsageError, match="2 features a frame, and the model takes x"):
        Stream(FrontEnd(PARAMS), FakeRunner(3), KeywordDecoder(KeywordSpec(), ("a", "b", "c"), 0.01))


def test_fakes_pass_their_own_checks() -> None:
    check_runner(lambda: FakeRunner(features=3, frames_per_step=2))
    check_runner(lambda: FakeRunner(features=3, frames_per_step=2, batch=3))
    check_source(lambda: ArraySource(np.zeros(999, np.float32)))
    check_sink(ListSink)


def test_checks_notice_what_is_broken() -> None:
    class Forgetful(FakeRunner):
        def reset(self, stream: int | None = None, context: Context | None = None) -> None:
            pass

    class Lenient(FakeRunner):
        def step(self, *frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
            if self.closed:
                return super().step(*frames)
            return super().step(np.resize(frames[0] if frames else 0, (1, 2)).astype(np.float32))

    class Careless(FakeRunner):
        def reset(self, stream: int | None = None, context: Context | None = None) -> None:
            super().reset()

    for broken, words in ((Forgetful, "after a reset"), (Lenient, "wrong shape"), (Careless, "the others differ")):
        batch = 2 if broken is Careless else 1
        with pytest.raises(AssertionError, match=words):
            check_runner(lambda broken=broken, batch=batch: broken(features=2, batch=batch))  # type: ignore[misc]

"""Frames of a sensor through a stream, and alarms: gaps and values that are none, hysteresis, times."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgernn.decode.alarm import AlarmDecoder, AlarmSpec, open_scorer
from edgernn.errors import ArtifactError, ShapeError, StepError, UsageError
from edgernn.events import Alarm, Keyword, Message, Stamp
from edgernn.sensor_stream import SensorStream
from edgernn.spec import StreamSpec, TensorSpec
from edgernn.stream import Context
from edgernn.testing import FakeRunner

HZ = 10.0


class Echo(FakeRunner):
    """Gives each frame `delay` steps later, and remembers what it got."""

    def __init__(self, features: int = 2, delay: int = 0, frames_per_step: int = 1) -> None:
        super().__init__(features, frames_per_step)
        self.spec = dataclasses.replace(self.spec, output_delays=(delay,))
        self._delay, self.taken = delay, list[NDArray[np.float32]]()
        self.reset()

    def reset(self, stream: int | None = None, context: Context | None = None) -> None:
        """Begin anew."""
        self.waiting = np.zeros((self._delay, self.spec.inputs[0].shape[-1]), np.float32)

    def step(self, *frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Take frames, give earlier ones."""
        self.taken += list(frames[0])
        known = np.concatenate([self.waiting, frames[0]])
        self.waiting = known[len(frames[0]) :]
        return (known[None, : len(frames[0])],)


def open_stream(runner: FakeRunner, spec: AlarmSpec | None = None, **options: int) -> SensorStream:
    spec = spec or AlarmSpec(1.0, "y[0]", refractory_ms=0)
    scorer = open_scorer(spec, runner.spec, ())
    return SensorStream(runner, AlarmDecoder(spec, 1 / HZ), HZ, scorer, **options)


def frames(*values: float) -> NDArray[np.float32]:
    return np.array([[value, 0] for value in values], np.float32)


def taken(runner: Echo) -> list[float]:
    return [float(frame[0]) for frame in runner.taken]


def test_state_that_a_value_has_destroyed_is_told_and_mended() -> None:
    """A glitch of a sensor is finite, and what a network makes of it may not be: then nothing would come any more."""
    stream = open_stream(FakeRunner(2))
    stream.push(frames(0.5))
    stream.runner.restore({"sum": np.full((1, 2), np.nan, np.float32)})
    for _ in range(2):
        with pytest.raises(StepError, match="gave NaN"):
            stream.push(frames(0.1))
    stream.reset(stream.clock_samples)
    assert stream.push(frames(0.1, 5)) == [Alarm("y[0]", 5.1, 0.4, 0.5)]


def test_an_alarm_beyond_all_numbers_is_still_json() -> None:
    alarm = AlarmDecoder(AlarmSpec(1.0), 1 / HZ).push(np.array([np.inf], np.float32))
    assert alarm is not None
    message = Stamp()("hall", alarm).to_json()

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    assert json.loads(message, parse_constant=refuse)["score"] == float(np.finfo(np.float32).max)


def test_lost_frames_are_held_up_to_a_number_and_then_all_begins_anew() -> None:
    runner = Echo()
    stream = open_stream(runner, hold_frames=3)
    stream.push(frames(0.1, 0.2))
    stream.push(frames(0.3), lost=3)
    assert taken(runner) == pytest.approx([0.1, 0.2, 0.2, 0.2, 0.2, 0.3])
    events = stream.push(frames(5), lost=4)
    assert taken(runner)[6:] == [5]
    assert events == [Alarm("y[0]", 5.0, 1.0, 1.1)]  # 2 + 3 + 1 + 4 frames before it
    assert (stream.samples, stream.lost, stream.steps, stream.resets, stream.clock_samples) == (4, 7, 7, 1, 11)


def test_values_that_are_none_are_held_each_for_itself() -> None:
    runner, nan = Echo(), math.nan
    stream = open_stream(runner, hold_frames=2)
    stream.push(np.array([[nan, 1]], np.float32))  # nothing to hold yet
    stream.push(np.array([[1, 2], [nan, 3], [4, math.inf], [nan, nan], [nan, 5], [7, 8]], np.float32))
    np.testing.assert_array_equal(runner.taken, [[1, 2], [1, 3], [4, 3], [7, 8]])
    assert stream.dropped == {"skipped": 3, "held": 2}
    assert (stream.resets, stream.clock_samples) == (1, 7)


def test_times_are_true_to_the_clock_through_gaps_cuts_and_a_warm_up() -> None:
    runner = Echo(delay=2)
    stream = open_stream(runner, hold_frames=2)
    assert not stream.push(frames(0, 0, 0, 5))
    assert stream.push(frames(0), lost=1) == [Alarm("y[0]", 5.0, 0.3, 0.4)]
    assert stream.push(frames(5, 0, 0), lost=95)[0].end_s == pytest.approx(10.2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 2, width=32), min_size=1, max_size=40), st.lists(st.integers(0, 40)), st.integers(1, 3))
def test_frames_in_any_cut_give_the_same_alarms(values: list[float], cuts: list[int], size: int) -> None:
    spec = AlarmSpec(1.0, "y[0]", 0.5, duration_ms=200, refractory_ms=500)
    whole, cut = (open_stream(Echo(frames_per_step=size), spec) for _ in range(2))
    pieces = np.split(frames(*values), sorted(min(place, len(values)) for place in cuts))
    events = [event for piece in pieces for event in cut.push(piece)]
    assert events == whole.push(frames(*values))
    assert (cut.samples, cut.steps) == (len(values), len(values) // size)


@pytest.mark.parametrize(("delay", "size"), [(0, 1), (2, 1), (3, 2)])
def test_distance_is_from_the_frame_that_the_output_is_for(delay: int, size: int) -> None:
    spec = AlarmSpec(1e-6, "distance", refractory_ms=0)
    data = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    assert not open_stream(Echo(delay=delay, frames_per_step=size), spec).push(data)

    class Off(Echo):
        def step(self, *given: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
            return (super().step(*given)[0] + np.array([3, 4], np.float32),)

    event = open_stream(Off(delay=delay, frames_per_step=size), spec).push(data)[0]
    assert event.score == pytest.approx(math.sqrt(12.5), abs=1e-4)


def decide(values: list[float], **settings: float | bool | None) -> list[tuple[float, float]]:
    decoder = AlarmDecoder(AlarmSpec(**{"threshold": 1.0, "refractory_ms": 0, **settings}), 0.1)  # type: ignore[arg-type]
    found = [decoder.push(np.array([value], np.float32)) for value in values]
    return [(event.start_s, event.end_s) for event in found if event]


def test_alarm_has_hysteresis_duration_and_a_refractory_time() -> None:
    assert decide([0, 1, 2, 0, 1]) == [(0.1, 0.2), (0.4, 0.5)]
    assert decide([1, 0.8, 1, 0.8, 0.4, 1], release=0.5) == [(0.0, 0.1), (0.5, 0.6)]
    assert decide([1, 1, 0, 1, 1, 1, 1], duration_ms=300) == [(0.3, 0.6)]
    assert decide([1, 0.6, 0.6, 0], duration_ms=300, release=0.5) == [(0.0, 0.3)]
    assert decide([1, 0, 1, 1, 1, 1, 1], refractory_ms=400) == [(0.0, 0.1), (0.2, 0.5)]
    assert decide([5, 1, -1, 0.5], below=True, threshold=0.0) == [(0.2, 0.3)]
    assert decide([math.nan, 1, math.nan, 1, 0, 1]) == [(0.1, 0.2), (0.5, 0.6)]


def test_alarm_that_makes_no_sense_is_refused() -> None:
    for wrong in ({"threshold": math.nan}, {"duration_ms": -1.0}, {"release": 2.0}, {"release": 0.5, "below": True}):
        with pytest.raises(UsageError, match="alarm"):
            AlarmSpec(**{"threshold": 1.0, **wrong})  # type: ignore[arg-type]
    spec = AlarmSpec(2.5, "y", 1.0, name="pump")
    assert AlarmSpec.from_dict(spec.to_dict()) == spec
    for values in ({"threshold": "loud"}, {}, {"threshold": True}, {"threshold": 1, "thresh": 2}):
        with pytest.raises(ArtifactError, match="'alarm'"):
            AlarmSpec.from_dict(values)


def test_what_is_watched_must_be_there() -> None:
    outputs = (TensorSpec("y", (1, 3)), TensorSpec("z", (1, 1)))
    spec = StreamSpec((TensorSpec("x", (1, 1, 2)),), outputs, (), output_delays=(0, 4), output_kinds=("prefix",) * 2)
    values = (np.array([[1, 2, 3]], np.float32), np.array([[9]], np.float32))
    for watch, value in (("y[2]", 3), ("z", 9), ("z[0]", 9), ("hot", 2)):
        scorer = open_scorer(AlarmSpec(1.0, watch), spec, ("cold", "hot", "mild"))
        assert scorer.rows(values[0], values).tolist() == [[value]]
        assert scorer.delay_rows == (4 if watch[0] == "z" else 0)
    for watch, words in (("y", "3 elements"), ("y[3]", "3 elements"), ("w", "it has: y, z"), ("distance", "shape")):
        with pytest.raises(UsageError, match=words):
            open_scorer(AlarmSpec(1.0, watch), spec, ())


def test_frames_of_another_shape_are_refused_and_nothing_is_taken() -> None:
    runner = Echo()
    stream = open_stream(runner)
    for wrong in (np.zeros((1, 3), np.float32), np.zeros(2, np.float32), np.zeros((1, 2), bool)):
        with pytest.raises(ShapeError, match=r"takes frames of shape \(n, 2\)"):
            stream.push(wrong, lost=1)
    assert (stream.clock_samples, stream.lost, runner.taken) == (0, 0, [])
    with pytest.raises(UsageError, match="4 streams at once"):
        SensorStream(FakeRunner(2, batch=4), stream.decoder, HZ)


def test_alarms_are_messages_too() -> None:
    message = Stamp()("yard", Alarm("pump", 1.5, 0.0, 1.0))
    assert Message.from_json(message.to_json()) == message
    assert str(message).split() == ["0.00", "s", "pump", "1.50", "(until", "1.00", "s)"]
    assert (message.event.label, Keyword("up", 1, 0, 1).label) == ("pump", "up")
    assert Alarm.from_json(message.event.to_json()) == message.event

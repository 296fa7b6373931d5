"""A pipeline whose source fails, stalls, is late, or gives what is no sound; and one whose stream is replaced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgernn.artifact import Artifact
from edgernn.devices.daemon.config import PipelineConfig, SourceConfig
from edgernn.devices.daemon.counters import Counters, DaemonCounters
from edgernn.devices.daemon.handover import SPREAD_S, Handover
from edgernn.devices.daemon.health import health
from edgernn.devices.daemon.listener import Listener
from edgernn.devices.daemon.prepare import prepare
from edgernn.errors import AudioError, UsageError
from edgernn.event_stream import EventStream
from edgernn.events import Event, Keyword, Message, Stamp
from edgernn.stream import Chunk, Source

RATE = 16000
SIZE = 320


def bursts(seconds: float) -> NDArray[np.float32]:
    """Return sound that is loud in the second half of each second."""
    noise = np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)
    noise[np.arange(len(noise)) % RATE < RATE // 2] = 0
    return noise


Step = Chunk | Exception | Callable[[], object]


class Script:
    """A source that does what is written: gives a chunk, raises, or calls something."""

    rate_hz = RATE

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Chunk]:
        for step in self._steps:
            if self.closed.is_set():
                return
            if isinstance(step, Chunk):
                yield step
            elif isinstance(step, Exception):
                raise step
            else:
                step()

    def close(self) -> None:
        self.closed.set()


def chunks(sound: NDArray[np.float32], at_s: float | None = None) -> list[Chunk]:
    """Cut sound, as if its beginning was said at `at_s` on the monotonic clock, by default now."""
    begin = time.monotonic() if at_s is None else at_s
    return [Chunk(sound[i : i + SIZE], begin + (i + SIZE) / RATE) for i in range(0, len(sound), SIZE)]


def seconds(told: Sequence[Event]) -> list[int]:
    """Return in which seconds sound was told; the model is loud after a reset too, which is not in the second half."""
    return [int(event.end_s) for event in told if event.end_s % 1 > 0.5]


class Pipeline:
    """A listener on sources that are opened one after the other, and what it told.

    Its clock stands still, however long a busy machine takes for what is to be heard.
    """

    def __init__(self, artifact: Artifact, *scripts: Source | Exception, **settings: float) -> None:
        self.told: list[Event] = []
        self.now_s = time.monotonic()
        self._scripts = iter(scripts)
        source = SourceConfig("mic:")
        self.config = replace(PipelineConfig("hall", artifact.path, source), **settings)  # type: ignore[arg-type]
        self.listener = Listener(prepare(self.config), self._open, self._put, Counters("hall"), lambda: self.now_s)
        self.counters = self.listener.counters

    def _open(self, config: PipelineConfig, stream: EventStream, quiet: Callable[[], int]) -> Source:
        step = next(self._scripts)
        if isinstance(step, Exception):
            raise step
        return step

    def _put(self, config: PipelineConfig, event: Event) -> Message:
        self.told.append(event)
        return Stamp()(config.name, event)

    def run(self) -> Pipeline:
        """Run to the source's end, tended as by the supervisor."""
        self.listener.start()
        return self.run_on()

    def run_on(self) -> Pipeline:
        """Tend it to its end."""
        until = time.monotonic() + 60
        while not self.listener.ended:
            assert time.monotonic() < until, "it does not end"
            self.listener.tend()
            time.sleep(0.01)
        return self


@pytest.fixture
def undisturbed(energy_artifact: Artifact) -> list[Event]:
    return Pipeline(energy_artifact, Script(chunks(bursts(6)))).run().told


def test_sound_gives_events_and_is_counted(energy_artifact: Artifact, undisturbed: list[Event]) -> None:
    pipeline = Pipeline(energy_artifact, Script(chunks(bursts(6)))).run()
    counters = pipeline.counters
    assert [event.end_s for event in pipeline.told] == [event.end_s for event in undisturbed]
    assert seconds(undisturbed) == [0, 1, 2, 3, 4, 5]
    assert (counters.samples, counters.frames, counters.steps, counters.words["sound"]) == (6 * RATE, 598, 598, 7)
    assert (counters.state, counters.labels, counters.latency.total) == ("ended", ("sound", "silence"), 300)
    assert counters.scores[0][2].shape == (2,)
    assert not counters.dropped


def test_source_that_fails_is_opened_again(energy_artifact: Artifact) -> None:
    begin, sound = time.monotonic() - 0.9, bursts(6)
    first = Script([*chunks(sound[: 2 * RATE], begin), AudioError("it was unplugged")])
    second = Script(chunks(sound[3 * RATE :], begin + 3))
    pipeline = Pipeline(energy_artifact, first, AudioError("it is not there"), AudioError("nor now"), second).run()
    counters = pipeline.counters
    assert first.closed.is_set()
    assert (counters.failures, counters.reopened) == ({"failed": 1, "unopened": 2}, 1)
    assert counters.dropped == {"gap": RATE}
    assert seconds(pipeline.told) == [0, 1, 3, 4, 5]  # true to the clock on the wall
    assert counters.resets == 1


def test_source_that_stalls_is_left_and_opened_again(energy_artifact: Artifact) -> None:
    begin, sound = time.monotonic(), bursts(4)
    hangs, wakes = threading.Event(), threading.Event()
    hung = Script([
        *chunks(sound[: 2 * RATE], begin), hangs.set, wakes.wait,  # as a device that hangs: closing does not help
        *chunks(np.full(RATE, np.nan, np.float32), begin),
    ])  # fmt: skip
    second = Script([*chunks(sound[3 * RATE :], begin + 3)])
    pipeline = Pipeline(energy_artifact, hung, second, stall_s=0.2)
    pipeline.listener.start()
    [thread] = pipeline.listener._threads
    assert hangs.wait(60)
    assert pipeline.listener.tend()
    assert not pipeline.counters.failures, "no time has passed"
    pipeline.now_s += 0.3
    pipeline.run_on()
    assert pipeline.counters.failures == {"stalled": 1}
    wakes.set()  # the hung thread wakes up, and must not touch the stream
    thread.join(60)
    assert not thread.is_alive()
    assert seconds(pipeline.told) == [0, 1, 3]
    assert not pipeline.counters.dropped["malformed"]


@pytest.mark.parametrize(("stall_s", "most_s"), [(0.2, 0.1), (5.0, 0.5), (0.0, 0.5)])
def test_what_is_waited_for_together_is_no_stall(stall_s: float, most_s: float, energy_artifact: Artifact) -> None:
    """A long average cannot decide anything for a second: a source that gave all of that at once seemed to stall."""
    pipeline = Pipeline(energy_artifact, Script([]), smoothing_ms=9000.0, stall_s=stall_s)
    assert pipeline.listener.hearing.prepared.stream.quiet_samples > most_s * RATE
    assert pipeline.listener._quiet() == most_s * RATE


def test_source_that_never_closes_is_left_and_another_opened(energy_artifact: Artifact) -> None:
    sound, released = bursts(4), threading.Event()
    broken = Script([*chunks(sound[: 2 * RATE]), AudioError("it is gone")])
    broken.close = released.wait  # type: ignore[assignment]
    begin = time.monotonic()
    pipeline = Pipeline(energy_artifact, broken, Script(chunks(sound[2 * RATE :]))).run()
    assert time.monotonic() - begin < 10
    assert seconds(pipeline.told) == [0, 1, 2, 3]
    released.set()


def test_source_that_cannot_be_is_fatal_only_at_first(energy_artifact: Artifact) -> None:
    pipeline = Pipeline(energy_artifact, UsageError("no such scheme")).run()
    assert str(pipeline.listener.fatal) == "no such scheme"
    pipeline.now_s += 1000
    assert pipeline.listener.tend(), "the watchdog would restart all others, and mend nothing"
    later = Pipeline(energy_artifact, Script([AudioError("gone")]), UsageError("odd"), Script(chunks(bursts(1)))).run()
    assert (later.listener.fatal, seconds(later.told)) == (None, [0])


def test_pipe_that_never_had_a_sample_ends_and_is_a_failure(energy_artifact: Artifact) -> None:
    over = AudioError("standard input ended before a sample came", for_good=True)
    pipeline = Pipeline(energy_artifact, Script([over])).run()
    assert (pipeline.listener.fatal, pipeline.counters.state) == (over, "failed")


def test_late_chunks_are_skipped_until_it_has_caught_up(energy_artifact: Artifact) -> None:
    steps: list[Step] = [*chunks(bursts(6), 0.0)]
    pipeline = Pipeline(energy_artifact, Script(steps), late_s=2.0)
    pipeline.now_s = 4.0  # the first two seconds are older than allowed, the third one late all the same
    pipeline.run()
    skipped = pipeline.counters.dropped["late"] / RATE
    assert 3.6 < skipped < 4.2, "after one that is late, others are skipped until it has caught up"
    assert seconds(pipeline.told) == [3, 4, 5]
    assert (pipeline.counters.state, pipeline.counters.resets) == ("ended", 1)


def test_what_is_no_sound_is_skipped(energy_artifact: Artifact, undisturbed: list[Event]) -> None:
    steps = chunks(bursts(6))
    bad = [np.full(SIZE, np.nan, np.float32), np.full(SIZE, 3e6, np.float32), np.zeros((SIZE, 2), np.float32)]
    for where, samples in zip((60, 120, 180), bad, strict=True):
        steps[where] = Chunk(samples, steps[where].time_s)
    pipeline = Pipeline(energy_artifact, Script(steps)).run()
    assert pipeline.counters.dropped == {"malformed": 3 * SIZE}
    assert [round(event.end_s, 1) for event in pipeline.told] == [round(event.end_s, 1) for event in undisturbed]


def test_what_is_malformed_is_told_with_the_reason(energy_artifact: Artifact, caplog: pytest.LogCaptureFixture) -> None:
    steps = chunks(bursts(1))
    steps[10:12] = [replace(step, lost=1, dropped={"malformed": 1}) for step in steps[10:12]]
    script = Script(steps)
    script.remark = "none of the fields x, y"  # type: ignore[attr-defined]
    Pipeline(energy_artifact, script).run()
    told = [record.getMessage() for record in caplog.records if "is malformed" in record.getMessage()]
    assert told == ["hall: what the source gives is malformed, 1 at once: none of the fields x, y"]


def test_a_source_that_gives_only_what_is_malformed_is_down_until_something_else_comes(
    energy_artifact: Artifact,
) -> None:
    sound, down, all_counters = chunks(bursts(1)), list[list[dict[str, object]]](), DaemonCounters()
    nothing = Chunk(sound[0].samples[:0], sound[9].time_s, lost=1, dropped={"malformed": 1})

    def look() -> None:
        down.append(health(all_counters)[1]["down"])

    def wait() -> None:
        pipeline.now_s += 60  # which is no fault of the listener's

    source = Script([*sound[:10], look, nothing, wait, nothing, look, sound[10], look])
    source.remark = "none of the fields x, y"  # type: ignore[attr-defined]
    pipeline = Pipeline(energy_artifact, source, late_s=1e9)
    all_counters.pipelines = {"hall": pipeline.counters}
    pipeline.run()
    assert [len(each) for each in down] == [0, 1, 0]
    assert down[1][0]["what"] == "source of hall"
    assert down[1][0]["why"] == "all that comes is malformed: none of the fields x, y"
    assert pipeline.listener.tend()
    assert not pipeline.counters.reopened


def test_lost_samples_are_counted_and_filled(energy_artifact: Artifact, undisturbed: list[Event]) -> None:
    steps = chunks(bursts(6))
    steps[60] = replace(steps[60], samples=steps[60].samples[100:], lost=100)
    pipeline = Pipeline(energy_artifact, Script(steps)).run()
    assert pipeline.counters.dropped == {"lost": 100}
    assert [event.end_s for event in pipeline.told] == [event.end_s for event in undisturbed]


@pytest.mark.parametrize("where", range(140, 190, 7))
def test_stream_is_replaced_between_two_chunks(
    where: int, energy_artifact: Artifact, undisturbed: list[Event], tmp_path: Path
) -> None:
    fresh: list[Callable[[], object]] = []
    steps: list[Step] = [*chunks(bursts(6))]
    steps.insert(where, lambda: fresh[0]())
    pipeline = Pipeline(energy_artifact, Script(steps))
    fresh.append(lambda: pipeline.listener.hearing.take_over(prepare(pipeline.config)))
    pipeline.run()
    assert pipeline.counters.reloads == 1
    assert [event.end_s for event in pipeline.told] == [event.end_s for event in undisturbed]
    assert (pipeline.counters.samples, pipeline.counters.frames) == (6 * RATE, 598)


def test_stream_that_fails_as_it_takes_over_leaves_the_old_one_there(
    energy_artifact: Artifact, undisturbed: list[Event]
) -> None:
    fresh: list[Callable[[], object]] = []
    steps: list[Step] = [*chunks(bursts(6))]
    steps.insert(150, lambda: fresh[0]())
    pipeline = Pipeline(energy_artifact, Script(steps))
    broken = prepare(pipeline.config)
    broken.stream.runner.close()  # so that each step raises
    fresh.append(lambda: pipeline.listener.hearing.take_over(broken))
    pipeline.run()
    assert (pipeline.counters.reloads, pipeline.counters.failures) == (0, {"step": 1})
    assert not pipeline.counters.reopened
    assert [event.end_s for event in pipeline.told] == [event.end_s for event in undisturbed]
    assert pipeline.listener.hearing.latest is not broken


def test_idle_source_leaves_nothing_behind(energy_artifact: Artifact) -> None:
    """As that of a folder or a table where nothing new comes, once a second, for months."""
    empty = np.zeros(0, np.float32)
    steps = [*chunks(bursts(1)), *(Chunk(empty, time.monotonic(), idle=True) for _ in range(5000))]
    pipeline = Pipeline(energy_artifact, Script(steps)).run()
    assert len(pipeline.listener.hearing._recent) == RATE // SIZE


def test_what_was_late_before_a_source_failed_is_missing_once(energy_artifact: Artifact) -> None:
    begin, sound, hiccups = time.monotonic(), bursts(5), list[Callable[[], object]]()
    late = chunks(sound[2 * RATE : 3 * RATE], begin + 2)
    first = Script([*chunks(sound[: 2 * RATE], begin), lambda: hiccups[0](), *late, AudioError("it was unplugged")])
    pipeline = Pipeline(energy_artifact, first, Script(chunks(sound[3 * RATE :], begin + 13)))
    hiccups.append(lambda: setattr(pipeline, "now_s", begin + 13))
    pipeline.run()
    assert pipeline.counters.dropped == {"late": RATE, "gap": 10 * RATE}
    assert pipeline.listener.hearing.prepared.stream.clock_samples == 15 * RATE


def test_an_end_waits_for_no_source_that_hangs_as_it_is_closed(energy_artifact: Artifact) -> None:
    released = threading.Event()

    class Hung(Script):
        def close(self) -> None:
            super().close()
            released.wait(60)

    pipeline = Pipeline(energy_artifact, Hung([*chunks(bursts(1)), released.wait]))
    pipeline.listener.start()
    while pipeline.counters.samples != RATE:
        time.sleep(0.01)
    begin = time.monotonic()
    pipeline.listener.stop()
    assert not pipeline.listener.join(0.1)
    assert time.monotonic() - begin < 1
    released.set()
    assert pipeline.listener.join(60)


def word(name: str, end_s: float) -> Event:
    return Keyword(name, 0.9, end_s - 0.3, end_s)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0.3, 9), min_size=1, max_size=5), st.floats(1, 8), st.lists(st.floats(-0.2, 0.2), min_size=5))
def test_each_word_counts_once_around_a_handover(ends: list[float], now_s: float, shifts: list[float]) -> None:
    """Whatever the moment, and though the new model decides each word a little earlier or later than the old one."""
    ends = [end for end, before in zip(sorted(ends), [-9.0, *sorted(ends)], strict=False) if end - before > 1]
    handover, told = Handover(), []
    for end in (end for end in ends if end <= now_s):
        handover.told(word("left", end))
        told.append(end)
    new = [word("left", end + shift) for end, shift in zip(ends, shifts, strict=False)]
    replayed = [event for event in new if now_s - 3 < event.end_s <= now_s]
    for event in handover.missed(replayed, now_s):
        handover.told(event)
        told.append(event.end_s)
    for event in (event for event in new if event.end_s > now_s):
        if not handover.is_repeat(event):
            told.append(event.end_s)
    assert [round(abs(end - event) <= SPREAD_S) for end, event in zip(ends, told, strict=True)] == [1] * len(ends)

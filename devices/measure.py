"""Measuring the steps of an artifact on this machine; printing is elsewhere."""

from __future__ import annotations

import datetime
import hashlib
import time
from collections.abc import Callable, Mapping
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from edgernn import __version__
from edgernn.artifact import Artifact
from edgernn.devices.pipeline import front_end_of
from edgernn.devices.runner import find_runtime, open_model, runtime_for
from edgernn.frontend import FrontEnd, LogMel
from edgernn.machine import describe_machine, resident_bytes
from edgernn.profile import Profile, Timing
from edgernn.stream import Runner

__all__ = ["DIFFERENT_FRAMES", "SEED", "WARM_UP_STEPS", "Times", "begin_example", "measure", "period_of"]

Times = Mapping[str, NDArray[np.float64]]
"""Name of what was measured to the times in microseconds, in the order in which they were taken."""
Progress = Callable[[float, str], None]
"""Told how much is done, 0 to 1, and of what."""

SEED = 0
WARM_UP_STEPS = 200
DIFFERENT_FRAMES = 64  # fed in turn, so that no step sees what the one before saw


def measure(
    artifact: Artifact,
    runtime: str | None = None,
    threads: int = 1,
    steps: int = 10_000,
    seconds: float = 10.0,
    progress: Progress = lambda share, what: None,
) -> tuple[Profile, Times]:
    """Open the artifact, warm up, and measure `steps` steps back to back and `seconds` of steps at their own pace.

    The runtime should not have been imported yet, or importing it takes no time. Takes as long as it says.
    """
    machine = describe_machine()
    name = runtime_for(runtime, artifact.programs.get("step", {}))
    model, before = artifact.model(find_runtime(name).format), resident_bytes()
    start = time.perf_counter()
    import_module(find_runtime(name).module)
    imported = time.perf_counter()
    runner = open_model(model, name, threads)
    opened = time.perf_counter()
    frames = begin_example(runner)
    first_us = _step_times(runner, frames, 1)[0]
    grown = resident_bytes() - before
    _step_times(runner, frames, WARM_UP_STEPS)
    times: dict[str, NDArray[np.float64]] = {}
    progress(0.0, "back to back")
    times["step"] = _step_times(runner, frames, steps)
    period_s = period_of(artifact, runner)
    misses = 0
    if period_s is not None and seconds > 0:
        times["step, paced"], times["due to done"] = _paced(runner, frames, seconds, period_s, progress)
        misses = int((times["due to done"] > period_s * 1e6).sum())
    if artifact.front_end is not None and not artifact.front_end_embedded:
        times["front end"] = _front_end_times(front_end_of(artifact), runner.spec.frames_per_step, min(steps, 2000))
    profile = Profile(
        artifact=artifact.name,
        digest=hashlib.sha256(model.path.read_bytes()).hexdigest(),
        format=model.format,
        scheme=model.scheme,
        runtime=runner.runtime,
        threads=threads,
        machine=machine,
        measured_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        edgernn=__version__,
        timings=tuple(Timing.of(what, values) for what, values in times.items()),
        period_us=None if period_s is None else period_s * 1e6,
        deadline_misses=misses,
        import_ms=(imported - start) * 1e3,
        open_ms=(opened - imported) * 1e3,
        first_step_us=float(first_us),
        resident_bytes=resident_bytes(),
        runtime_bytes=grown,
    )
    runner.close()
    return profile, times


def period_of(artifact: Artifact, runner: Runner) -> float | None:
    """Return the seconds from one step to the next; None where the artifact does not tell."""
    if artifact.frame_rate_hz is None:
        return None
    return runner.spec.frames_per_step / artifact.frame_rate_hz


def begin_example(runner: Runner) -> list[tuple[NDArray[np.float32], ...]]:
    """Begin a stream with an example of its context, if it takes one, and return frames to feed in turn."""
    rng = np.random.default_rng(SEED)
    runner.reset(context=runner.spec.example_context(rng))
    return [tuple(tensor.example(rng) for tensor in runner.spec.inputs) for _ in range(DIFFERENT_FRAMES)]


def _step_times(runner: Runner, frames: list[tuple[NDArray[np.float32], ...]], steps: int) -> NDArray[np.float64]:
    times, clock, step = np.empty(steps), time.perf_counter, runner.step
    for index in range(steps):
        arrays = frames[index % DIFFERENT_FRAMES]
        before = clock()
        step(*arrays)
        times[index] = clock() - before
    return times * 1e6


def _paced(
    runner: Runner,
    frames: list[tuple[NDArray[np.float32], ...]],
    seconds: float,
    period_s: float,
    progress: Progress,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the times of steps at the stream's pace, and the times from when each was due to when it was done.

    A step that is late does not put off the next one: that is due when its frames would be there.
    """
    steps, clock = max(1, round(seconds / period_s)), time.perf_counter
    taken, response = np.empty(steps), np.empty(steps)
    begin = clock() + period_s
    for index in range(steps):
        due = begin + index * period_s
        wait = due - clock()
        if wait > 0:
            time.sleep(wait)
        before = clock()
        runner.step(*frames[index % DIFFERENT_FRAMES])
        after = clock()
        taken[index], response[index] = after - before, after - due
        if index % 50 == 0:
            progress(index / steps, "at the stream's pace")
    progress(1.0, "at the stream's pace")
    return taken * 1e6, response * 1e6


def _front_end_times(params: LogMel, frames_per_step: int, steps: int) -> NDArray[np.float64]:
    """Return the times that the front end takes for the frames of one step."""
    front_end, hop = FrontEnd(params), params.hop_samples * frames_per_step
    samples = np.random.default_rng(0).normal(0, 0.1, hop).astype(np.float32)
    for _ in range(20):
        front_end.push(samples)
    times = np.empty(steps)
    for index in range(steps):
        before = time.perf_counter()
        front_end.push(samples)
        times[index] = time.perf_counter() - before
    return times * 1e6

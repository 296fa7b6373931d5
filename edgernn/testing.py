"""Fakes, and checks that every runner, source and sink passes: for the tests of EdgeRNN and of what builds on it.

A check takes a function that opens the thing, so that it can open several, and raises `AssertionError` where the
thing breaks its protocol (`edgernn.stream`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import EdgeRNNError, ShapeError, StepError, UsageError
from edgernn.events import Event, Keyword
from edgernn.spec import StateSpec, StreamSpec, TensorSpec
from edgernn.stream import Chunk, FrameBatch, Runner, Sink, Source, State

__all__ = ["ArraySource", "FakeRunner", "ListSink", "check_runner", "check_sink", "check_source", "impulse_latencies"]


class FakeRunner:
    """A runner in NumPy whose one output is the running sum of its frames, features kept apart.

    >>> runner = FakeRunner(features=2)
    >>> _ = runner.step(np.array([[1.0, 2.0]], np.float32))
    >>> runner.step(np.array([[1.0, 2.0]], np.float32))[0].tolist()
    [[[2.0, 4.0]]]
    """

    runtime = "fake 1.0"

    def __init__(self, features: int, frames_per_step: int = 1, batch: int = 1) -> None:
        self.spec = StreamSpec(
            inputs=(TensorSpec("x", (batch, frames_per_step, features)),),
            outputs=(TensorSpec("y", (batch, frames_per_step, features)),),
            states=(StateSpec("sum", "sum_in", "sum_out", (batch, features)),),
            frames_per_step=frames_per_step,
            batch=batch,
            output_delays=(0,),
            output_kinds=("frames",),
        )
        self.closed = False
        self._sum = np.zeros((batch, features), np.float32)

    def step(self, *frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Add the frames up."""
        if self.closed:
            raise StepError("the runner is closed")
        tensor = self.spec.inputs[0]
        if len(frames) != 1 or not isinstance(frames[0], np.ndarray) or frames[0].shape != tensor.step_shape:
            raise ShapeError(f"expected one array of shape {tensor.step_shape}")
        sums = self._sum[:, None] + np.cumsum(frames[0].reshape(tensor.shape), axis=1, dtype=np.float32)
        self._sum = sums[:, -1]
        return (sums,)

    def reset(self, stream: int | None = None) -> None:
        """Begin at zero."""
        self._sum = self._sum.copy()
        self._sum[self._chosen(stream)] = 0

    def snapshot(self, stream: int | None = None) -> State:
        """Return the sum."""
        return {"sum": self._sum[self._chosen(stream)].copy()}

    def restore(self, state: State, stream: int | None = None) -> None:
        """Go on from a sum."""
        chosen = self._chosen(stream)
        if set(state) != {"sum"} or state["sum"].shape != self._sum[chosen].shape:
            raise ShapeError("the snapshot is of another model")
        self._sum = self._sum.copy()
        self._sum[chosen] = state["sum"]

    def _chosen(self, stream: int | None) -> slice:
        if stream is not None and not 0 <= stream < len(self._sum):
            raise UsageError(f"there is no stream {stream}")
        return slice(None) if stream is None else slice(stream, stream + 1)

    def close(self) -> None:
        """Refuse further steps."""
        self.closed = True


class ArraySource:
    """A source that gives an array in chunks, at once.

    >>> [len(chunk.samples) for chunk in ArraySource(np.zeros(5, np.float32), chunk_samples=2)]
    [2, 2, 1]
    """

    def __init__(
        self,
        samples: NDArray[np.float32],
        rate_hz: int = 16000,
        chunk_samples: int = 320,
        lost: Sequence[int] = (),
    ) -> None:
        self.rate_hz = rate_hz
        self._samples = samples
        self._chunk = chunk_samples
        self._lost = dict(enumerate(lost))
        self._closed = False

    def __iter__(self) -> Iterator[Chunk]:
        for number, start in enumerate(range(0, len(self._samples), self._chunk)):
            if self._closed:
                return
            part = self._samples[start : start + self._chunk]
            yield Chunk(part, (start + len(part)) / self.rate_hz, self._lost.get(number, 0))

    def close(self) -> None:
        """End the iteration."""
        self._closed = True


class ListSink:
    """A sink that keeps its events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False

    def write(self, event: Event) -> None:
        """Keep one event."""
        self.events.append(event)

    def close(self) -> None:
        """Note that it happened."""
        self.closed = True


def check_runner(open_runner: Callable[[], Runner], steps: int = 40, seed: int = 0) -> None:
    """Check a runner: shapes, reset, snapshot and restore, chunking, refusals, and closing.

    Where a step serves several streams: that each has a reset, a snapshot and a restore of its own, and that not a bit
    of the others changes with it.
    """
    runner = open_runner()
    frames = _frames(runner.spec, steps, seed)
    first = _run(runner, frames)
    for tensor, output in zip(runner.spec.outputs, first[0], strict=True):
        assert output.shape == tensor.shape, f"output {tensor.name} has shape {output.shape}, not {tensor.shape}"
        assert output.dtype == np.float32, f"output {tensor.name} is {output.dtype}, not float32"
    runner.reset()
    _assert_same(first, _run(runner, frames), "after a reset, the outputs differ")
    _check_snapshots(runner, open_runner(), frames)
    _check_streams(runner, frames)
    _check_chunking(runner, frames, seed)
    _check_refusals(runner, frames[0])
    _check_closing(runner, frames[0])


def _frames(spec: StreamSpec, steps: int, seed: int) -> list[tuple[NDArray[np.float32], ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(tensor.example(rng) for tensor in spec.inputs) for _ in range(steps)]


def _run(runner: Runner, frames: Sequence[tuple[NDArray[np.float32], ...]]) -> list[list[NDArray[np.float32]]]:
    return [[output.copy() for output in runner.step(*step)] for step in frames]


def _assert_same(one: Any, other: Any, complaint: str) -> None:
    pairs = [pair for steps in zip(one, other, strict=True) for pair in zip(*steps, strict=True)]
    assert all(np.array_equal(a, b) for a, b in pairs), complaint


def _check_snapshots(runner: Runner, other: Runner, frames: list[tuple[NDArray[np.float32], ...]]) -> None:
    for cut in (0, 1, len(frames) // 2):
        runner.reset()
        _run(runner, frames[:cut])
        state = runner.snapshot()
        kept = {name: array.copy() for name, array in state.items()}
        rest = _run(runner, frames[cut:])
        assert all(np.array_equal(kept[name], state[name]) for name in kept), "a step changed a snapshot"
        for again in (runner, other):
            again.restore(state)
            _assert_same(rest, _run(again, frames[cut:]), f"from a snapshot after {cut} steps, the outputs differ")
    _assert_refused(lambda: runner.restore({}), "restore takes a snapshot without states")
    other.close()


def _check_streams(runner: Runner, frames: list[tuple[NDArray[np.float32], ...]]) -> None:
    batch, half, quarter = runner.spec.batch, len(frames) // 2, len(frames) // 4
    runner.reset()
    whole = _run(runner, frames)
    for stream in range(batch):
        others = [other for other in range(batch) if other != stream]
        runner.reset()
        _run(runner, frames[:quarter])
        earlier = runner.snapshot(stream)
        _run(runner, frames[quarter:half])
        runner.reset(stream)
        beginning = _run(runner, _moved(frames, half, stream, batch))
        complaint = f"after a reset of stream {stream} alone"
        _assert_same(_lane(whole[: len(frames) - half], stream), _lane(beginning, stream), f"{complaint}, it differs")
        _assert_same(_lane(whole[half:], *others), _lane(beginning, *others), f"{complaint}, the others differ")
        target = (stream + 1) % batch
        others = [other for other in range(batch) if other != target]
        runner.reset()
        _run(runner, frames[:half])
        runner.restore(earlier, target)
        resumed = _run(runner, _moved(frames, half, target, batch, quarter, stream))
        complaint = f"with a snapshot of stream {stream} restored to {target}"
        expected = _lane(whole[quarter : quarter + len(resumed)], stream)
        _assert_same(expected, _lane(resumed, target), f"{complaint}, it differs")
        _assert_same(_lane(whole[half:], *others), _lane(resumed, *others), f"{complaint}, the others differ")
    for wrong in (-1, batch):
        _assert_refused(partial(runner.reset, wrong), f"there is a stream {wrong} of {batch}", UsageError)


def _moved(
    frames: list[tuple[NDArray[np.float32], ...]], start: int, stream: int, batch: int, begin: int = 0, origin: int = -1
) -> list[tuple[NDArray[np.float32], ...]]:
    """Return the steps from `start` on; but `stream` is given what `origin` (itself) was given from `begin` on."""
    origin = stream if origin < 0 else origin
    steps = []
    for arrays, others in zip(frames[start:], frames[begin:], strict=False):
        changed = [array.copy() for array in arrays]
        for array, other in zip(changed, others, strict=True):
            if batch == 1:
                array[...] = other
            else:
                array[stream] = other[origin]
        steps.append(tuple(changed))
    return steps


def _lane(steps: list[list[NDArray[np.float32]]], *streams: int) -> list[list[NDArray[np.float32]]]:
    return [[output[list(streams)] for output in outputs] for outputs in steps]


def _check_chunking(runner: Runner, frames: list[tuple[NDArray[np.float32], ...]], seed: int) -> None:
    """Give every stream of the batch its frames in other pieces."""
    rng, spec = np.random.default_rng(seed), runner.spec
    streams = [
        [
            np.concatenate([array if spec.batch == 1 else array[stream] for array in arrays])
            for arrays in zip(*frames, strict=True)
        ]
        for stream in range(spec.batch)
    ]
    batch = FrameBatch(runner)
    whole = batch.push(streams)
    batch.reset()
    pieces = []
    for inputs in streams:
        cuts = np.sort(rng.integers(0, len(inputs[0]), 9))
        pieces.append(list(zip(*(np.split(array, cuts) for array in inputs), strict=True)))
    pushed = [batch.push(parts) for parts in zip(*pieces, strict=True)]
    joined = [
        [np.concatenate([rows[stream][output] for rows in pushed]) for output in range(len(spec.outputs))]
        for stream in range(spec.batch)
    ]
    _assert_same(whole, joined, "cut into chunks, the frames give other outputs")


def _check_refusals(runner: Runner, frame: tuple[NDArray[np.float32], ...]) -> None:
    array: Any = frame[0]
    taller, wider = np.concatenate([array, array]), np.concatenate([array, array], axis=1)
    for wrong in (taller, wider, array[0], array.tolist()):
        _assert_refused(partial(runner.step, wrong, *frame[1:]), "step takes frames of a wrong shape")
    _assert_refused(partial(runner.step, *frame, array), "step takes too many arrays")
    _assert_refused(runner.step, "step takes no array at all")


def _check_closing(runner: Runner, frame: tuple[NDArray[np.float32], ...]) -> None:
    outputs = runner.step(*frame)
    runner.close()
    runner.close()
    assert all(np.isfinite(output).all() for output in outputs), "closing took the outputs away"
    _assert_refused(lambda: runner.step(*frame), "a closed runner steps", StepError)


def _assert_refused(action: Callable[[], object], complaint: str, kind: type[EdgeRNNError] = ShapeError) -> None:
    try:
        action()
    except kind:
        return
    raise AssertionError(f"{complaint}: expected {kind.__name__}")


def check_source(open_source: Callable[[], Source], limit: int = 50) -> None:
    """Check a source, by its first `limit` chunks: their type and times, and closing."""
    source = open_source()
    assert source.rate_hz > 0, f"the rate is {source.rate_hz} Hz"
    latest = -np.inf
    for number, chunk in enumerate(source):
        assert chunk.samples.dtype == np.float32, f"the samples are {chunk.samples.dtype}, not float32"
        assert chunk.samples.ndim == 1, f"the samples have shape {chunk.samples.shape}, not (n,)"
        assert chunk.lost >= 0, f"{chunk.lost} samples are lost"
        assert chunk.time_s >= latest, "time runs backwards"
        latest = chunk.time_s
        if number + 1 == limit:
            break
    source.close()
    source.close()
    assert not list(source), "a closed source goes on"


def check_sink(open_sink: Callable[[], Sink]) -> None:
    """Check a sink: it takes events, and closing twice is harmless."""
    sink = open_sink()
    sink.write(Keyword("left", 0.9, 0.5, 1.0))
    sink.write(Keyword("naïve", 1.0, 1.5, 2.0))
    sink.close()
    sink.close()


Whole = Callable[..., Sequence[NDArray[np.float32]]]
"""A source model: takes a whole sequence `(frames, features...)` for each input, and gives its outputs, each
`(frames, features...)` or, where it has one value for the sequence, `(features...)`."""


def impulse_latencies(runner: Runner, whole: Whole, at: int = 40, least: float = 1e-5) -> tuple[int, ...]:
    """Measure how late each output is, in input frames, behind the source model `whole`.

    Frame `at` of noise is struck, for the runner and for the source: by how much later the runner answers is the
    latency. An answer is a change of more than `least`; the struck frame must matter to every output, and the source be
    able to take sequences of about twice that length. Raises `AssertionError` where nothing answers.

    >>> impulse_latencies(FakeRunner(features=2), lambda frames: [np.cumsum(frames, axis=0)])
    (0,)
    """
    rng, size, shapes = np.random.default_rng(7), runner.spec.frames_per_step, runner.spec.inputs
    length = 2 * at // size * size + 2 * size
    calm = [rng.standard_normal((length, *tensor.shape[2:])).astype(np.float32) for tensor in shapes]
    blows = [[_struck(array, place) for array in calm] for place in range(at, at + size)]
    quiet = _stepped(runner, calm)
    loud = [_stepped(runner, struck) for struck in blows]
    truth = [whole(*inputs) for inputs in (calm, blows[0])]
    latencies = []
    for index, kind in enumerate(runner.spec.output_kinds):
        answers = [_first_change(quiet[index], after[index], least) for after in loud]
        if kind == "frames":
            frames = answers[0] - _first_change(truth[0][index], truth[1][index], least)
            latencies.append(-(-frames * size // runner.spec.outputs[index].shape[1]))
        else:  # a step answers for all of its frames: the one that it has waited for least tells
            needed = [_frames_needed(whole, index, calm, struck, at + n, least) for n, struck in enumerate(blows)]
            latencies.append(min((step + 1) * size - frames for step, frames in zip(answers, needed, strict=True)))
    return tuple(latencies)


def _struck(array: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    result = array.copy()
    result[place] += 10
    return result


def _stepped(runner: Runner, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Return for each output what it gives from a reset on: a row for each of its frames, or for each step."""
    spec, rows = runner.spec, []
    runner.reset()
    for start in range(0, len(inputs[0]), spec.frames_per_step):
        taken = [array[start : start + spec.frames_per_step] for array in inputs]
        if spec.batch > 1:
            taken = [np.stack([array] * spec.batch) for array in taken]
        rows.append([output[0].copy() for output in runner.step(*taken)])
    parts = zip(*rows, strict=True)
    return [
        np.concatenate(part) if kind == "frames" else np.stack(part)
        for part, kind in zip(parts, spec.output_kinds, strict=True)
    ]


def _first_change(one: NDArray[np.float32], other: NDArray[np.float32], least: float) -> int:
    changed = np.abs(one - other).reshape(len(one), -1).max(axis=1) > least
    assert changed.any(), "the struck frame changes nothing"
    return int(changed.argmax())


def _frames_needed(
    whole: Whole,
    index: int,
    calm: Sequence[NDArray[np.float32]],
    struck: Sequence[NDArray[np.float32]],
    at: int,
    least: float,
) -> int:
    """Return after how many frames the source's one value for a sequence knows of the blow."""
    for length in range(at + 1, len(calm[0]) + 1):
        values = [whole(*(array[:length] for array in inputs))[index] for inputs in (calm, struck)]
        if np.abs(values[0] - values[1]).max() > least:
            return length
    raise AssertionError("the struck frame changes nothing in the source")

"""The check that every runner passes, whatever it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import EdgeRNNError, ShapeError, StepError, UsageError
from edgernn.spec import StreamSpec
from edgernn.stream import FrameBatch, Runner

__all__ = ["check_runner"]


def check_runner(open_runner: Callable[[], Runner], steps: int = 40, seed: int = 0) -> None:
    """Check a runner: shapes, reset, snapshot and restore, chunking, refusals, and closing.

    Where a step serves several streams: that each has a reset, a snapshot and a restore of its own, and that not a bit
    of the others changes with it.
    """
    runner = open_runner()
    frames = _frames(runner.spec, steps, seed)
    _begin(runner)
    first = _run(runner, frames)
    for tensor, output in zip(runner.spec.outputs, first[0], strict=True):
        assert output.shape == tensor.shape, f"output {tensor.name} has shape {output.shape}, not {tensor.shape}"
        assert output.dtype == np.float32, f"output {tensor.name} is {output.dtype}, not float32"
    _begin(runner)
    _assert_same(first, _run(runner, frames), "after a reset, the outputs differ")
    _check_snapshots(runner, open_runner(), frames)
    _check_streams(runner, frames)
    _check_chunking(runner, frames, seed)
    _check_refusals(runner, frames[0])
    _check_closing(runner, frames[0])


def _frames(spec: StreamSpec, steps: int, seed: int) -> list[tuple[NDArray[np.float32], ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(tensor.example(rng) for tensor in spec.inputs) for _ in range(steps)]


def _begin(runner: Runner) -> None:
    """Reset all streams, with contexts that are the same each time."""
    runner.reset(context=runner.spec.example_context(np.random.default_rng(1)))


def _run(runner: Runner, frames: Sequence[tuple[NDArray[np.float32], ...]]) -> list[list[NDArray[np.float32]]]:
    return [[output.copy() for output in runner.step(*step)] for step in frames]


def _assert_same(one: Any, other: Any, complaint: str) -> None:
    pairs = [pair for steps in zip(one, other, strict=True) for pair in zip(*steps, strict=True)]
    assert all(np.array_equal(a, b) for a, b in pairs), complaint


def _check_snapshots(runner: Runner, other: Runner, frames: list[tuple[NDArray[np.float32], ...]]) -> None:
    for cut in (0, 1, len(frames) // 2):
        _begin(runner)
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
    _begin(runner)
    whole = _run(runner, frames)
    for stream in range(batch):
        others = [other for other in range(batch) if other != stream]
        _begin(runner)
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
        _begin(runner)
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

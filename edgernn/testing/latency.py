"""Latency by impulse: a frame is struck, and who answers later is late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.spec import StreamSpec
from edgernn.stream import Runner

__all__ = ["Whole", "impulse_latencies"]

Whole = Callable[..., Sequence[NDArray[np.float32]]]
"""A source model: takes a whole sequence `(frames, features...)` for each input, and gives its outputs, each
`(frames, features...)` or, where it has one value for the sequence, `(features...)`. Behind the sequences it takes the
contexts of the runner, `(...)` each."""


def impulse_latencies(runner: Runner, whole: Whole, at: int = 40, least: float = 1e-5) -> tuple[int, ...]:
    """Measure how late each output is, in input frames, behind the source model `whole`.

    Frame `at` of noise is struck, for the runner and for the source: by how much later the runner answers is the
    latency. An answer is a change of more than `least`; the struck frame must matter to every output, and the source be
    able to take sequences of about twice that length. Raises `AssertionError` where nothing answers.

    >>> from edgernn.testing import FakeRunner
    >>> impulse_latencies(FakeRunner(features=2), lambda frames: [np.cumsum(frames, axis=0)])
    (0,)
    """
    rng, size, shapes = np.random.default_rng(7), runner.spec.frames_per_step, runner.spec.inputs
    length = 2 * at // size * size + 2 * size
    calm = [rng.standard_normal((length, *tensor.shape[2:])).astype(np.float32) for tensor in shapes]
    blows = [[_struck(array, place) for array in calm] for place in range(at, at + size)]
    quiet = _stepped(runner, calm)
    loud = [_stepped(runner, struck) for struck in blows]
    held = _context(runner.spec)[1]
    truth = [whole(*inputs, *held) for inputs in (calm, blows[0])]
    latencies = []
    for index, kind in enumerate(runner.spec.output_kinds):
        answers = [_first_change(quiet[index], after[index], least) for after in loud]
        if kind == "frames":
            frames = answers[0] - _first_change(truth[0][index], truth[1][index], least)
            latencies.append(-(-frames * size // runner.spec.outputs[index].shape[1]))
        else:  # a step answers for all of its frames: the one that it has waited for least tells
            asked = partial(_with_contexts, whole, held)
            needed = [_frames_needed(asked, index, calm, struck, at + n, least) for n, struck in enumerate(blows)]
            latencies.append(min((step + 1) * size - frames for step, frames in zip(answers, needed, strict=True)))
    return tuple(latencies)


def _context(spec: StreamSpec) -> tuple[dict[str, NDArray[Any]], list[NDArray[Any]]]:
    """Return contexts for a reset, the same for all streams, and those of one stream in order."""
    drawn = replace(spec, batch=1, contexts=tuple(replace(item, shape=(1, *item.shape[1:])) for item in spec.contexts))
    context = drawn.example_context(np.random.default_rng(8))
    return context, list(context.values())


def _with_contexts(whole: Whole, held: Sequence[NDArray[Any]], *frames: NDArray[Any]) -> Sequence[NDArray[np.float32]]:
    return whole(*frames, *held)


def _struck(array: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    result = array.copy()
    result[place] += 10
    return result


def _stepped(runner: Runner, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Return for each output what it gives from a reset on: a row for each of its frames, or for each step."""
    spec, rows = runner.spec, []
    runner.reset(context=_context(runner.spec)[0])
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

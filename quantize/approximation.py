"""What a bounded form costs: its distance from the exact model, against how long it waits.

The bounded step, in float32, is compared with the source over the stream that proves everything else; so is the same
step with less of the bound that matters most (look-ahead, where there is one). These are figures to judge by, and
nothing fails because of them: the approximation was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.approximation import OutputDistance, Row
from edgernn.errors import UsageError
from edgernn.quantize.bounds import Bounds
from edgernn.quantize.oracle import Oracle
from edgernn.quantize.parity import Dev, Distance, Expected, accuracy, expected_outputs, measure
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import Invoke, invoke_onnx, steps
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import StreamSpec

__all__ = ["BoundedStep", "measure_approximation", "variants"]

PREFIXES = 6  # for a model that gives one value for the sequence: how many lengths the source is asked for, each row


class BoundedStep:
    """The step graph in float32: what a bounded form means, and what its files are compared with."""

    def __init__(self, step: StepGraph) -> None:
        self.step, self.spec = step, step.spec()
        self.invoke: Invoke = invoke_onnx(ir.to_proto(simplify(step.model)).SerializeToString())

    def expected(self, frames: Sequence[NDArray[Any]], since: int = 0) -> Expected:
        """Return what `expected_outputs` does, of every step from `since` on that gives something."""
        taken = list(steps(self.invoke, self.spec, frames))
        first = max(since, *(timing.warmup_steps for timing in self.step.timings))
        numbers = np.arange(first, len(taken))
        return [
            (numbers, np.stack([_by_frame(taken[number][item.name], kind) for number in numbers]))
            for item, kind in zip(self.spec.outputs, self.spec.output_kinds, strict=True)
        ]


def _by_frame(output: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """The frames of all streams side by side."""
    return output.reshape(-1, *output.shape[1 if kind == "prefix" else 2 :])


def variants(bounds: Bounds) -> tuple[str, list[tuple[int, Bounds]]]:
    """Return which bound is varied, and the values to try: powers of two, and last the one asked for.

    >>> from edgernn.quantize.bounds import Window
    >>> [value for value, _ in variants(Bounds(attention=Window(12)))[1]]
    [1, 2, 4, 8, 12]
    """
    both, seen = bounds.bidirectional, bounds.attention
    if both and both.lookahead:
        tried = [(n, replace(bounds, bidirectional=replace(both, lookahead=n))) for n in _up_to(both.lookahead, 0)]
        return "look-ahead", tried
    if seen and seen.lookahead:
        tried = [(n, replace(bounds, attention=replace(seen, lookahead=n))) for n in _up_to(seen.lookahead, 0)]
        return "look-ahead", tried
    if seen:
        tried = [(n, replace(bounds, attention=replace(seen, frames=n))) for n in _up_to(seen.frames)]
        return "attention window", tried
    if bounds.pooling_window:
        return "pooling window", [(n, replace(bounds, pooling_window=n)) for n in _up_to(bounds.pooling_window)]
    if both:
        return "chunk", [(n, replace(bounds, bidirectional=replace(both, chunk=n))) for n in _up_to(both.chunk)]
    return "edges", [(0, bounds)]


def _up_to(last: int, first: int = 1) -> list[int]:
    powers = [1 << place for place in range(last.bit_length()) if 1 << place < last]
    return [*([0] if first == 0 else []), *powers, last]


Make = Callable[[int | None, int, Bounds], StepGraph]
"""Makes a step of so many frames (None: as few as can be) for so many streams, in bounds: `Source.step`."""


def measure_approximation(
    make: Make, step: StepGraph, bounds: Bounds, oracle: Oracle, frames: Sequence[NDArray[Any]], dev: Dev | None
) -> tuple[str, list[Row], float | None]:
    """Compare a bounded step, and steps with less of its bound, with the source.

    `frames` are as in `expected_outputs`. Returns which bound is varied, the rows, and the source's own accuracy on
    `dev`, where there is one.
    """
    varied, tried = variants(bounds)
    asked = _Once(oracle)
    rows, source = [], None
    for value, bound in tried:
        bounded = BoundedStep(step if bound == bounds else _less(make, step, bound))
        expected = expected_outputs(asked, bounded.step, frames, prefixes=PREFIXES)
        distances = measure(expected, bounded.invoke, bounded.spec, frames)
        score = accuracy(asked, bounded.invoke, bounded.spec, dev) if dev else None
        rows.append(_row(value, bounded.spec, distances, score))
        source = score["source"] if score else None
    return varied, rows, source


def _row(value: int, spec: StreamSpec, distances: Sequence[Distance], score: dict[str, float] | None) -> Row:
    outputs = tuple(OutputDistance(d.name, d.max_abs, d.snr_db, d.argmax_agreement) for d in distances)
    return Row(value, spec.latency_frames, spec.frames_per_step, outputs, score["artifact"] if score else None)


def _less(make: Make, step: StepGraph, bounds: Bounds) -> StepGraph:
    """Return the step with less of a bound; without a look-ahead, there may be no edges to leave out any more."""
    frames = None if bounds.bidirectional else step.frames_per_step
    try:
        return make(frames, step.batch, bounds)
    except UsageError:
        return make(frames, step.batch, replace(bounds, edges=False))


class _Once(Oracle):
    """Asks a source for every sequence once; the arrays must stay alive and unchanged."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._known: dict[tuple[Any, ...], list[NDArray[np.float32]]] = {}

    def batch(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Ask, or remember."""
        key = tuple((array.__array_interface__["data"][0], array.shape, array.strides) for array in frames)
        if key not in self._known:
            self._known[key] = self._oracle.batch(frames)
        return self._known[key]

"""Making the drift certificate: what the source gives over thousands of steps, and what each file gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.certificate import Bound, Certificate, Golden, Made
from edgernn.machine import describe_processor
from edgernn.quantize.contexts import in_time
from edgernn.quantize.parity import Expected
from edgernn.quantize.schemes import Tolerance
from edgernn.quantize.stepping import Invoke, steps
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import StreamSpec

__all__ = ["begin_certificate", "enter"]

ROOM = 64 * 1024  # bytes for the frames, and as many for what one file gives as one output
LEAST_STEPS = 200  # that the frames last, however large they are
EARLY_STEPS = 8  # of the first that mean something, always compared
LATE_STEPS = 40  # compared in the last tenth
LATE_PREFIXES = 4  # in the last tenth, where the source must be run from the beginning for each
ROUNDING = 1e-5  # of an output's standard deviation: more than another order of sums makes of float32


Ask = Callable[[Sequence[NDArray[Any]], int, int], Expected]
"""Tells what is true of a stream, since some step, in so many beginnings: see `expected_outputs`."""


def begin_certificate(
    ask: Ask,
    step: StepGraph,
    stream: Sequence[NDArray[Any]],
    expected: Expected,
    total: int,
    tolerance: Tolerance,
    origin: str,
) -> Certificate:
    """Return a certificate that holds what the source gives, and nothing of any file yet.

    Of `stream` (for which `ask` gave `expected`) it takes as many steps as there is room for.
    They are repeated until there are `total` steps, and some of the last tenth of these are compared, too; a `total`
    that they last for anyway adds nothing.
    """
    axis = 0 if step.batch == 1 else 1
    period = _period(
        step, [array.shape for array in stream[: step.inputs]], axis, max(int(numbers[0]) for numbers, _ in expected)
    )
    total = max(total, period)
    frames = in_time(stream, step.inputs, lambda array: array.take(range(period * step.frames_per_step), axis))
    truths = [_where(numbers < period, numbers, values) for numbers, values in expected]
    if total > period:
        long = in_time(frames, step.inputs, lambda array: _repeated(array, total * step.frames_per_step, axis))
        late = ask(long, max(period, total - total // 10), LATE_PREFIXES)
        truths = [_joined(early, later) for early, later in zip(truths, late, strict=True)]
    shapes = [tensor.shape for tensor in step.spec().outputs]
    outputs = tuple(_golden(*truth, shape, period, total) for truth, shape in zip(truths, shapes, strict=True))
    frames, held = frames[: step.inputs], frames[step.inputs :]
    return Certificate(total, frames, outputs, {}, tolerance.max_error, origin, held)


def _golden(
    numbers: NDArray[np.int64], values: NDArray[np.float32], shape: tuple[int, ...], period: int, total: int
) -> Golden:
    """Choose the steps that are compared: of all that are not warm-up, as many as there is room for."""
    most = max(LATE_STEPS, ROOM // (4 * int(np.prod(shape))))
    early = np.unique(np.linspace(numbers[0], period - 1, min(most, period - numbers[0])).astype(np.int64))
    late = np.unique(np.linspace(max(period, total - total // 10), total - 1, LATE_STEPS).astype(np.int64))
    first = np.arange(numbers[0], min(numbers[0] + EARLY_STEPS, period))
    compared = np.unique(np.concatenate([first, early, late[(late >= period) & (late < total)]]))
    if len(numbers) <= LATE_STEPS + LATE_PREFIXES:  # what was asked for step by step is too dear to leave out
        compared = np.union1d(compared, numbers)
    known = np.isin(numbers, compared)
    asked = np.flatnonzero(np.isin(compared, numbers))
    return Golden(compared, asked, values[known].reshape(-1, *shape), {})


def _period(step: StepGraph, shapes: Sequence[tuple[int, ...]], axis: int, first: int) -> int:
    """Return for how many steps frames are kept; `first` is the first step that is compared."""
    given = shapes[0][axis] // step.frames_per_step
    bytes_per_step = 2 * sum(int(np.prod(shape)) for shape in shapes) // given
    return min(given, max(LEAST_STEPS, ROOM // bytes_per_step, first + EARLY_STEPS))


def _repeated(frames: NDArray[Any], length: int, axis: int) -> NDArray[Any]:
    repeated: NDArray[Any] = frames.take(np.arange(length) % frames.shape[axis], axis)
    return repeated


Truth = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Steps, and what the source gives there."""


def _where(which: NDArray[np.bool_], numbers: NDArray[np.int64], values: NDArray[np.float32]) -> Truth:
    return numbers[which], values[which]


def _joined(early: Truth, late: Truth) -> Truth:
    return np.concatenate([early[0], late[0]]), np.concatenate([early[1], late[1]])


def enter(
    certificate: Certificate, kind: str, invoke: Invoke, spec: StreamSpec, runtime: str, exact: bool
) -> Certificate:
    """Step a file through the certificate and return it with what the file gave, as the file of format `kind`.

    `exact` says that the file promises the same bits on every machine. Where it does not, another kind of machine
    may differ by twice the file's own worst error: two ways to round one model, each as far from it.
    """
    frames = [
        _repeated(array, certificate.steps * spec.frames_per_step, 0 if spec.batch == 1 else 1)
        for array in certificate.frames
    ]
    found = _outputs(certificate, invoke, spec, [*frames, *certificate.contexts])
    bounds = tuple(
        _bound(tensor.name, golden, made, certificate.steps, exact)
        for tensor, golden, made in zip(spec.outputs, certificate.outputs, found, strict=True)
    )
    outputs = tuple(
        replace(golden, made={**golden.made, kind: made})
        for golden, made in zip(certificate.outputs, found, strict=True)
    )
    made_by = Made(runtime, describe_processor(), bounds)
    return replace(certificate, outputs=outputs, made={**certificate.made, kind: made_by})


def _outputs(
    certificate: Certificate, invoke: Invoke, spec: StreamSpec, frames: Sequence[NDArray[Any]]
) -> list[NDArray[np.float32]]:
    wanted = [set(golden.steps.tolist()) for golden in certificate.outputs]
    found: list[list[NDArray[np.float32]]] = [[] for _ in wanted]
    for number, outputs in enumerate(steps(invoke, spec, frames)):
        for index, tensor in enumerate(spec.outputs):
            if number in wanted[index]:
                found[index].append(outputs[tensor.name].reshape(tensor.shape))
    return [np.stack(arrays) for arrays in found]


def _bound(name: str, golden: Golden, made: NDArray[np.float32], total: int, exact: bool) -> Bound:
    scale, worst = max(1.0, float(golden.source.std())), float(golden.error(made).max())
    elsewhere = 0.0 if exact else 2 * worst + ROUNDING * scale
    return Bound(name, scale, worst, elsewhere, golden.drift(made, total))

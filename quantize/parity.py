"""Proof: the source model over whole sequences against the artifact, stepped from reset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ConversionError, ToleranceError, UsageError
from edgernn.quantize.contexts import in_time
from edgernn.quantize.oracle import Oracle
from edgernn.quantize.schemes import Tolerance
from edgernn.quantize.stepping import Invoke, steps
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import StreamSpec

__all__ = [
    "PREFIXES",
    "Dev",
    "Distance",
    "Expected",
    "accuracy",
    "check",
    "check_accuracy",
    "expected_outputs",
    "measure",
]

PREFIXES = 40  # for a model that gives one value for the sequence: how many lengths the source is asked for
LEAST_PREFIXES = 5  # for each stream of a batch
NOTHING_DB = 200.0  # written where the error is exactly zero


@dataclass(frozen=True)
class Distance:
    """How far one output of an artifact is from the source."""

    name: str
    max_abs: float
    mean_abs: float
    snr_db: float
    argmax_agreement: float
    """Share of the frames in which the largest element is the same one, 0 to 1."""
    scale: float
    """Standard deviation of the source's output, at least 1: what `Tolerance.max_error` is a share of."""
    compared: int
    """Frames (or lengths of the sequence) that were compared."""
    worst_step: int
    varies: bool = True
    """Whether the source's output changed at all: where it did not, the comparison says little."""

    def misses(self, tolerance: Tolerance) -> str | None:
        """Return in words what is beyond the tolerance, None where nothing is."""
        error = self.max_abs / self.scale
        if not np.isfinite(error) or error > tolerance.max_error:
            return f"error {error:.3g} of its standard deviation (allowed: {tolerance.max_error:g})"
        if self.snr_db < tolerance.min_snr_db:
            return f"SNR {self.snr_db:.1f} dB (at least {tolerance.min_snr_db:g} dB are asked for)"
        return None


Expected = list[tuple[NDArray[np.int64], NDArray[np.float32]]]
"""For each output: the steps that are compared, and what the source gives there, `(compared, frames, features...)`.

The frames of all streams of a batch stand side by side.
"""


def expected_outputs(
    oracle: Oracle, step: StepGraph, stream: Sequence[NDArray[Any]], since: int = 0, prefixes: int = PREFIXES
) -> Expected:
    """Ask the source for every output: over the whole stream or, for one without a time axis, over its beginnings.

    `stream` has an array for each input, shape `(frames, features...)` or, where a step serves several streams,
    `(batch, frames, features...)`, then one for each context: each stream is asked for by itself, and their frames
    stand side by side in the result. Steps before `since` are left out; without a time axis, `prefixes` of the others
    are asked for.
    """
    if step.batch == 1:
        return _expected_of_one(oracle, step, stream, since, prefixes)
    prefixes = max(min(LEAST_PREFIXES, prefixes), prefixes // step.batch)
    lanes = [_expected_of_one(oracle, step, lane, since, prefixes) for lane in zip(*stream, strict=True)]
    return [
        (numbers, np.concatenate([lane[index][1] for lane in lanes], axis=1))
        for index, (numbers, _) in enumerate(lanes[0])
    ]


NO_NUMBER = (
    "the source model itself gives NaN or infinity for the first {} frames of the examples: nothing can be compared; "
    "where a mask hides them all, their mean is none: let the examples begin with a frame that counts"
)


def _expected_of_one(
    oracle: Oracle, step: StepGraph, stream: Sequence[NDArray[Any]], since: int, prefixes: int
) -> Expected:
    chunk = step.frames_per_step
    total = len(stream[0]) // chunk
    warm = max(timing.warmup_steps for timing in step.timings)  # before that, the source may have no frame to give
    if warm >= total:
        raise UsageError(
            f"the first {warm} steps give nothing yet, so that {total} prove nothing: compare over more (--steps)"
        )
    whole = oracle(in_time(stream, step.inputs, partial(_until, length=total * chunk)))
    if not all(np.isfinite(output).all() for output in whole):
        raise ConversionError("the source model itself gives NaN or infinity for the examples: nothing can be compared")
    result: Expected = []
    beginnings: dict[int, list[NDArray[np.float32]]] = {}
    for index, timing in enumerate(step.timings):
        if timing.axis is not None:
            result.append(_frames(whole[index], timing.delay, timing.frames, since, total))
            continue
        first = max(since, warm + -(-timing.extra_input_frames // chunk))
        chosen = np.unique(np.linspace(first, total - 1, prefixes).astype(np.int64))
        values = []
        for number in chosen:
            length = int(number + 1) * chunk - timing.extra_input_frames
            if length not in beginnings:
                beginnings[length] = oracle(in_time(stream, step.inputs, partial(_until, length=length)))
                if not all(np.isfinite(output).all() for output in beginnings[length]):
                    raise ConversionError(NO_NUMBER.format(length))
            values.append(beginnings[length][index][None])
        result.append((chosen, np.stack(values)))
    return result


def _until(array: NDArray[Any], length: int) -> NDArray[Any]:
    return array[:length]


def _frames(
    whole: NDArray[np.float32], delay: int, frames: int, since: int, total: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    first = max(since, -(-delay // frames))
    numbers = np.arange(first, total)
    begin = numbers * frames - delay
    return numbers, np.stack([whole[start : start + frames] for start in begin])


def measure(expected: Expected, invoke: Invoke, spec: StreamSpec, stream: Sequence[NDArray[Any]]) -> list[Distance]:
    """Step the artifact through the stream from reset and return the distance of each output."""
    taken = list(steps(invoke, spec, stream))
    return [
        _distance(item.name, truth, np.stack([taken[number][item.name] for number in numbers]), numbers)
        for item, (numbers, truth) in zip(spec.outputs, expected, strict=True)
    ]


def _by_frame(output: NDArray[np.float32]) -> NDArray[np.float32]:
    return output.reshape(-1, output.shape[-1])


def _distance(
    name: str, truth: NDArray[np.float32], found: NDArray[np.float32], numbers: NDArray[np.int64]
) -> Distance:
    truth, found = (array.reshape(*truth.shape[:2], -1) for array in (truth, found))  # compared, frames, elements
    error = np.abs(found.astype(np.float64) - truth)
    noise = float(np.mean(error**2))
    return Distance(
        name=name,
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        snr_db=_decibels(_signal(truth), noise),
        argmax_agreement=float(np.mean(found.argmax(-1) == truth.argmax(-1))),
        scale=max(1.0, float(truth.std())),
        compared=int(truth.shape[0] * truth.shape[1]),
        worst_step=int(numbers[int(error.reshape(len(error), -1).max(-1).argmax())]),
        varies=bool((truth != truth[:1, :1]).any()),
    )


def _signal(truth: NDArray[np.float32]) -> float:
    """Return the power of what varies in each element, so that an offset does not hide an error.

    At least a thousandth of the whole power, for outputs that hardly vary at all, such as a long running mean.
    """
    values = truth.reshape(-1, truth.shape[-1]).astype(np.float64)
    return float(max(values.var(axis=0).mean(), 1e-3 * np.mean(values**2)))


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return NOTHING_DB
    if signal == 0 or not np.isfinite(noise):
        return -NOTHING_DB
    return float(min(10 * np.log10(signal / noise), NOTHING_DB))


def check(distances: Sequence[Distance], tolerance: Tolerance, where: str, advice: Sequence[str] = ()) -> None:
    """Raise `ToleranceError` naming each output that is too far from the source, and the step where it is worst.

    `advice` is what else may be done, before more is allowed.
    """
    reasons = [
        f"output {item.name}: {reason}, worst at step {item.worst_step}"
        for item in distances
        for reason in [item.misses(tolerance)]
        if reason
    ]
    if reasons:
        raise ToleranceError(
            f"{where} differs too much from the source model: {'; '.join(reasons)}; "
            + "; ".join([*advice, "or allow it with --tolerance"])
        )


def check_accuracy(scores: Mapping[str, float], tolerance: Tolerance, where: str) -> None:
    """Raise `ToleranceError` if the artifact is right less often than the source, by more than is allowed."""
    known = scores.get("bounded", scores["source"])  # what a bounded form loses was asked for
    lost = known - scores["artifact"]
    if lost * scores["clips"] > max(1.0, tolerance.max_accuracy_loss * scores["clips"]) + 1e-6:
        raise ToleranceError(
            f"{where}: accuracy on the dev set is {scores['artifact']:.2%}, the source has {known:.2%}; "
            f"{tolerance.max_accuracy_loss:.1%} may be lost: try another --quantize, or allow it with "
            "--tolerance accuracy=LOSS"
        )


Dev = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Frames `(clips, frames, features)` and classes `(clips,)`."""


def accuracy(oracle: Oracle, invoke: Invoke, spec: StreamSpec, dev: Dev) -> dict[str, float]:
    """Return the share of clips whose last output has its largest element at the right class: source, artifact."""
    clips, classes = dev
    clips = clips[:, : clips.shape[1] // spec.frames_per_step * spec.frames_per_step]
    source = np.concatenate([oracle.batch([part])[0] for part in _parts(clips)])
    found = [
        _last_scores(invoke, spec, clips[start : start + spec.batch]) for start in range(0, len(clips), spec.batch)
    ]
    return {
        "source": float(np.mean(_last_frame(source).argmax(-1) == classes)),
        "artifact": float(np.mean(np.concatenate(found).argmax(-1) == classes)),
        "clips": len(classes),
    }


def _parts(clips: NDArray[np.float32], size: int = 256) -> Iterator[NDArray[np.float32]]:
    return (clips[start : start + size] for start in range(0, len(clips), size))


def _last_frame(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return outputs[:, -1] if outputs.ndim == 3 else outputs


def _last_scores(invoke: Invoke, spec: StreamSpec, clips: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the last frame of the first output for each of at most `spec.batch` clips, `(clips, features)`."""
    lanes = np.resize(clips, (spec.batch, *clips.shape[1:]))
    output = _last(steps(invoke, spec, [lanes if spec.batch > 1 else lanes[0]]))[spec.outputs[0].name]
    return output.reshape(spec.batch, -1, output.shape[-1])[: len(clips), -1]


def _last(items: Iterator[dict[str, NDArray[np.float32]]]) -> dict[str, NDArray[np.float32]]:
    last: dict[str, NDArray[np.float32]] = {}
    for item in items:
        last = item
    return last

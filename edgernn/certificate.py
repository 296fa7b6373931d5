"""The drift certificate of an artifact: frames, what the source gave for them, and what each file gave.

A machine that steps the same frames from reset can tell by itself whether it runs the model that was proven. The
frames are repeated end to end for thousands of steps, of which the first and some of the last are compared: what an
error does over a long stream is seen at its end.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.arrays import read_arrays
from edgernn.artifact import Artifact
from edgernn.errors import ArtifactError, DataError
from edgernn.spec import Reader, StreamSpec, TensorSpec

__all__ = [
    "CERTIFICATE",
    "MOST_STEPS",
    "Bound",
    "Certificate",
    "Drift",
    "Golden",
    "Made",
    "drift_of",
    "on_levels",
    "read_certificate",
]

CERTIFICATE = "certificate.npz"
LEVELS = 32767  # of a frame's value, either side of zero
MOST_BYTES = 256 * 2**20  # of all arrays together; one that claims more was not made by us
MOST_STEPS = 10**6  # seconds of stepping; more would be a way to make a machine busy for hours


@dataclass(frozen=True)
class Drift:
    """What an error does over time."""

    first_tenth: float
    """Mean absolute error over what is compared of the first tenth of the steps."""
    last_tenth: float
    slope_per_1000: float
    """By how much the mean absolute error grows in 1,000 steps (least squares)."""


def drift_of(steps: NDArray[np.int64], error: NDArray[np.floating[Any]], total: int) -> Drift:
    """Return the drift of errors `(compared, …)` made at `steps` `(compared,)` of a stream of `total` steps.

    >>> drift_of(np.array([0, 500, 999]), np.array([0.0, 0.5, 0.999]), 1000)
    Drift(first_tenth=0.0, last_tenth=0.999, slope_per_1000=1.0)
    """
    mean = np.abs(error.astype(np.float64)).reshape(len(steps), -1).mean(-1)
    early, late = mean[steps < max(total // 10, steps[0] + 1)], mean[steps >= min(total - total // 10, steps[-1])]
    away = steps - steps.mean()
    slope = 1000 * float(away @ mean) / max(float(away @ away), 1.0)
    return Drift(float(early.mean()), float(late.mean()), round(slope, 12))


@dataclass(frozen=True)
class Bound:
    """How near one output of a file was to its source, and how near to that another machine must come."""

    name: str
    scale: float
    """Standard deviation of the source's output, at least 1: what the tolerance is a share of."""
    max_abs: float
    """Worst error against the source."""
    elsewhere: float
    """Largest difference from the golden output that another kind of machine may make; 0 for none at all."""
    drift: Drift


@dataclass(frozen=True)
class Made:
    """What made the golden output of one file. The same runtime on the same instructions gives the same bits."""

    runtime: str
    processor: str
    bounds: tuple[Bound, ...]
    """Of each output."""


@dataclass(frozen=True)
class Golden:
    """One output at the steps that are compared."""

    steps: NDArray[np.int64]
    """Shape `(compared,)`, rising."""
    asked: NDArray[np.int64]
    """At which of these the source was asked, too: positions in `steps`, shape `(asked,)`, rising."""
    source: NDArray[np.float32]
    """What the source model gives there, `(asked, *shape)` with the shape of the output."""
    made: Mapping[str, NDArray[np.float32]]
    """What the file of each format gave, `(compared, *shape)`."""

    def error(self, found: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return how far outputs `(compared, *shape)` are from the source, `(asked, *shape)`."""
        return np.abs(found[self.asked].astype(np.float64) - self.source)

    def drift(self, found: NDArray[np.float32], total: int) -> Drift:
        """Return what the distance from the source does over a stream of `total` steps."""
        return drift_of(self.steps[self.asked], self.error(found), total)


@dataclass(frozen=True)
class Certificate:
    """Frames, and what comes out."""

    steps: int
    frames: tuple[NDArray[Any], ...]
    """For each input: `(frames, features...)` or, for a batch, `(batch, frames, features...)`; to be repeated."""
    outputs: tuple[Golden, ...]
    made: Mapping[str, Made]
    """By format."""
    tolerance: float
    """Largest error against the source, as a share of `Bound.scale`."""
    origin: str
    """Where the frames are from."""
    contexts: tuple[NDArray[Any], ...] = ()
    """For each context: what is held all the time, `(...)` or, for a batch, `(batch, ...)`."""

    def chunks(self, spec: StreamSpec) -> Iterator[tuple[NDArray[Any], ...]]:
        """Yield what each step takes, for each input `(frames_per_step, features...)`, in a batch with it in front."""
        axis, size = (0, spec.frames_per_step) if spec.batch == 1 else (1, spec.frames_per_step)
        period = self.frames[0].shape[axis] // size
        each = [tuple(np.ascontiguousarray(part) for part in np.split(array, period, axis)) for array in self.frames]
        for number in range(self.steps):
            yield tuple(chunks[number % period] for chunks in each)

    def section(self) -> dict[str, Any]:
        """Return what the manifest says of it: all but the arrays."""
        made = {kind: asdict(item) for kind, item in self.made.items()}
        about = {"file": CERTIFICATE, "steps": self.steps, "tolerance": self.tolerance, "origin": self.origin}
        return {**about, "made": made}

    def content(self) -> bytes:
        """Return the arrays as the bytes of an `.npz` file, without pickle."""
        arrays: dict[str, NDArray[Any]] = {}
        for index, array in enumerate(self.frames):
            arrays[f"frames.{index}"], arrays[f"scale.{index}"] = _to_levels(array)
        for index, array in enumerate(self.contexts):
            arrays[f"context.{index}"], arrays[f"context_scale.{index}"] = _to_levels(array)
        for index, golden in enumerate(self.outputs):
            arrays[f"steps.{index}"], arrays[f"asked.{index}"] = (
                array.astype(np.int32) for array in (golden.steps, golden.asked)
            )
            arrays[f"source.{index}"] = golden.source
            arrays.update({f"{kind}.{index}": made for kind, made in golden.made.items()})
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()


def on_levels(frames: NDArray[Any]) -> NDArray[Any]:
    """Round frames to values that a certificate holds exactly: 65,535 levels, a power of two apart.

    Whole numbers stay what they are.

    >>> on_levels(np.array([0.1, 1.0], np.float32)).tolist()
    [0.0999755859375, 1.0]
    """
    levels, scale = _to_levels(frames)
    return _from_levels(levels, scale)


def _to_levels(frames: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    if frames.dtype.kind != "f":
        return frames, np.array(0.0)
    highest = float(np.abs(frames).max(initial=0.0)) / LEVELS
    scale = 2.0 ** max(np.ceil(np.log2(highest)), -120.0) if highest else 1.0
    return np.rint(frames / np.float64(scale)).astype(np.int16), np.array(scale)


def _from_levels(levels: NDArray[Any], scale: NDArray[np.float64]) -> NDArray[Any]:
    return levels if scale == 0 else (levels * scale).astype(np.float32)


def read_certificate(artifact: Artifact) -> Certificate:
    """Return an artifact's certificate; raise `ArtifactError` where it has none, or one that does not fit it."""
    where = f"{artifact.path}/{CERTIFICATE}"
    if not artifact.certificate:
        raise ArtifactError(
            f"{artifact.path} has no drift certificate: it was converted by an older EdgeRNN; convert the model again"
        )
    section = Reader(artifact.certificate, f"{artifact.path}/manifest.json: ", "certificate.")
    step = artifact.programs.get("step", {})
    made = section.section("made", least=1)
    for kind in made:
        if kind not in step:
            raise made.wrong(kind, f"one of the formats of the program 'step': {', '.join(step)}")
    arrays = _Arrays(_load(artifact), where)
    spec = next(iter(step[kind].spec for kind in made))
    for kind in made:
        if _taken_and_given(step[kind].spec) != _taken_and_given(spec):
            raise made.wrong(kind, f"a file that takes and gives what {step[next(iter(made))].path.name} does")
    steps = section.whole("steps", 1, MOST_STEPS)
    return Certificate(
        steps=steps,
        frames=_frames(arrays, spec),
        outputs=tuple(_golden(arrays, index, tensor, tuple(made), steps) for index, tensor in enumerate(spec.outputs)),
        made={kind: _made(made.section(kind), step[kind].spec) for kind in made},
        tolerance=section.positive("tolerance"),
        origin=section.text("origin"),
        contexts=tuple(_held(arrays, index, tensor) for index, tensor in enumerate(spec.contexts)),
    )


def _taken_and_given(spec: StreamSpec) -> list[tuple[str, tuple[int, ...]]]:
    return [(tensor.name, tensor.shape) for tensor in (*spec.inputs, *spec.contexts, *spec.outputs)]


def _made(read: Reader, spec: StreamSpec) -> Made:
    bounds = read.array("bounds")
    found = tuple(_bound(bounds.section(index)) for index in bounds)
    if [bound.name for bound in found] != [tensor.name for tensor in spec.outputs]:
        raise read.wrong("bounds", f"one for each output: {', '.join(tensor.name for tensor in spec.outputs)}")
    return Made(read.text("runtime"), read.text("processor"), found)


def _bound(read: Reader) -> Bound:
    drift = read.section("drift")
    return Bound(
        read.text("name"),
        read.positive("scale"),
        read.number("max_abs"),
        read.number("elsewhere"),
        Drift(*map(drift.number, ("first_tenth", "last_tenth", "slope_per_1000"))),
    )


def _load(artifact: Artifact) -> dict[str, NDArray[Any]]:
    try:
        return read_arrays(artifact.path / CERTIFICATE, MOST_BYTES)
    except DataError as error:
        raise ArtifactError(f"{error}; convert the model again") from error


class _Arrays:
    """Arrays by name; one that does not fit is an `ArtifactError`."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], where: str) -> None:
        self._arrays, self.where = arrays, where

    def get(self, name: str, dtypes: Sequence[str], shape: Sequence[int | None]) -> NDArray[Any]:
        """Return an array of one of `dtypes`, of finite values; None in `shape` stands for any size above 0."""
        array = self._arrays.get(name)
        if array is None:
            raise ArtifactError(f"{self.where} lacks the array '{name}': convert the model again")
        fits = len(array.shape) == len(shape) and all(
            size == wanted or (wanted is None and size > 0) for size, wanted in zip(array.shape, shape, strict=True)
        )
        if not fits or str(array.dtype) not in dtypes or not np.isfinite(array).all():
            sizes = " × ".join("any" if size is None else str(size) for size in shape) or "one number"
            raise ArtifactError(
                f"{self.where}: the array '{name}' should be finite {' or '.join(dtypes)} of shape {sizes}, "
                f"found {array.dtype} of shape {array.shape}: convert the model again"
            )
        return array


def _frames(arrays: _Arrays, spec: StreamSpec) -> tuple[NDArray[Any], ...]:
    found = []
    for index, tensor in enumerate(spec.inputs):
        sizes = [*([tensor.shape[0]] if spec.batch > 1 else []), None, *tensor.shape[2:]]
        levels = arrays.get(f"frames.{index}", _level_dtypes(tensor), sizes)
        scale = arrays.get(f"scale.{index}", ["float64"], [])
        found.append(_from_levels(levels, scale))
    lengths = {array.shape[0 if spec.batch == 1 else 1] for array in found}
    if len(lengths) > 1 or lengths.pop() % spec.frames_per_step:
        raise ArtifactError(f"{arrays.where}: the inputs should have as many frames each, for whole steps")
    return tuple(found)


def _held(arrays: _Arrays, index: int, tensor: TensorSpec) -> NDArray[Any]:
    levels = arrays.get(f"context.{index}", _level_dtypes(tensor), tensor.step_shape)
    return _from_levels(levels, arrays.get(f"context_scale.{index}", ["float64"], []))


def _level_dtypes(tensor: TensorSpec) -> list[str]:
    whole = np.dtype(tensor.dtype).kind in "iub" and tensor.quant is None
    return [tensor.dtype] if whole else ["int16"]


def _golden(arrays: _Arrays, index: int, tensor: TensorSpec, kinds: Sequence[str], total: int) -> Golden:
    steps = _rising(arrays, f"steps.{index}", total)
    asked = _rising(arrays, f"asked.{index}", len(steps))
    source = arrays.get(f"source.{index}", ["float32"], (len(asked), *tensor.shape))
    made = {kind: arrays.get(f"{kind}.{index}", ["float32"], (len(steps), *tensor.shape)) for kind in kinds}
    return Golden(steps, asked, source, made)


def _rising(arrays: _Arrays, name: str, below: int) -> NDArray[np.int64]:
    found = arrays.get(name, ["int32"], [None]).astype(np.int64)
    if found[0] < 0 or found[-1] >= below or (np.diff(found) <= 0).any():
        raise ArtifactError(f"{arrays.where}: '{name}' should rise, from 0 or more to below {below}")
    return found

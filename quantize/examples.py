"""Streams that are like a model's input: read from files, or generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.arrays import read_arrays
from edgernn.errors import DataError, ShapeError, UsageError
from edgernn.files import check_there
from edgernn.quantize.contexts import in_time
from edgernn.quantize.options import EXAMPLES
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import TensorSpec

__all__ = ["GENERATED", "Streams", "generate_sound", "generate_streams", "lanes", "one_stream", "read_streams"]

Streams = list[tuple[NDArray[Any], ...]]
"""Each stream has an array for each input of the model, shape `(frames, features...)`, in the input's dtype.

Behind these it has one for each context, without the batch.
"""

GENERATED = 4  # streams


def read_streams(
    path: Path,
    inputs: Sequence[TensorSpec],
    front_end: Mapping[str, Any] | None,
    contexts: Sequence[TensorSpec] = (),
    seed: int = 0,
) -> Streams:
    """Read example streams for these inputs and contexts of a step.

    `path` is a `.npz` or `.npy` file of frames, `(frames, features...)` or `(streams, frames, features...)`, with one
    array for each input, under its name where there are several; or a recording or a folder of recordings, for a model
    that has a front end. A context may be there under its name, the same for all streams or one for each; else it is
    drawn.
    """
    check_there(path, EXAMPLES)
    are_arrays = path.suffix in (".npz", ".npy")
    arrays = dict(read_arrays(path)) if are_arrays else {}
    given = {item.name: arrays.pop(item.name) for item in contexts if item.name in arrays}
    streams = (
        _from_arrays(path, arrays, inputs) if are_arrays else _from_recordings(path, front_end, _are_samples(inputs))
    )
    for index, stream in enumerate(streams):
        _check_stream(f"{path}, stream {index}", stream, inputs)
    if all((array == array.flat[0]).all() for stream in streams for array in stream):
        raise DataError(f"{path}: every number in it is the same: such frames prove nothing; give real ones")
    held = [_held(path, given.get(item.name), item, len(streams), np.random.default_rng(seed)) for item in contexts]
    return [(*stream, *(each[index] for each in held)) for index, stream in enumerate(streams)]


def _held(
    path: Path, array: NDArray[Any] | None, item: TensorSpec, streams: int, random: np.random.Generator
) -> NDArray[Any]:
    """Return a context for each stream, `(streams, ...)`."""
    shape = item.shape[1:]
    if array is None:
        return np.stack([_drawn(random, shape, item) for _ in range(streams)])
    if array.shape not in (shape, (streams, *shape)) or not np.isfinite(array).all():
        raise DataError(
            f"{path}: the context {item.name} should be finite numbers of shape {shape}, or for each stream "
            f"{(streams, *shape)}, found {array.dtype} of shape {array.shape}"
        )
    return np.broadcast_to(_cast(path, array, item), (streams, *shape))


def _are_samples(inputs: Sequence[TensorSpec]) -> bool:
    """Whether a model takes sound itself: one number after the other."""
    return len(inputs) == 1 and len(inputs[0].shape) == 2 and np.dtype(inputs[0].dtype).kind == "f"


def _from_arrays(path: Path, found: Mapping[str, NDArray[Any]], inputs: Sequence[TensorSpec]) -> Streams:
    arrays = _by_name(path, found, [item.name for item in inputs])
    ranks = [len(item.shape) for item in inputs]
    sets = [array[None] if array.ndim == rank - 1 else array for array, rank in zip(arrays, ranks, strict=True)]
    fits = [array.ndim == rank for array, rank in zip(sets, ranks, strict=True)]
    if not all(fits) or len({array.shape[:2] for array in sets}) > 1:
        frames = " and ".join(dict.fromkeys(", ".join(["frames", *_features(item)]) for item in inputs))
        raise DataError(
            f"{path}: expected ({frames}) or (streams, {frames}), as many streams and frames for each "
            f"input, found {', '.join(str(array.shape) for array in arrays)}"
        )
    if 0 in sets[0].shape:
        raise DataError(f"{path} has no frames in it")
    cast = [_cast(path, array, item) for array, item in zip(sets, inputs, strict=True)]
    return [tuple(group) for group in zip(*cast, strict=True)]


def _by_name(path: Path, arrays: Mapping[str, NDArray[Any]], names: Sequence[str]) -> list[NDArray[Any]]:
    """Return the arrays in the order of the inputs; a single one, or `arr_0` and so on, may have any name."""
    unnamed = [f"arr_{index}" for index in range(len(names))]  # as np.savez calls them, in the order that it was given
    if set(arrays) == set(names):
        return [arrays[name] for name in names]
    if len(arrays) == len(names) and (len(names) == 1 or set(arrays) == set(unnamed)):
        return [arrays[name] for name in (unnamed if len(names) > 1 else arrays)]
    raise DataError(
        f"{path} has the arrays {', '.join(arrays)}; expected one for each input of the model, under its name: "
        f"{', '.join(names)}"
    )


def _features(item: TensorSpec) -> list[str]:
    """Return what the axes behind time are called in a message."""
    return ["features"] if len(item.shape) == 3 else [str(size) for size in item.shape[2:]]


def _cast(path: Path, array: NDArray[Any], item: TensorSpec) -> NDArray[Any]:
    dtype = np.dtype(item.dtype)
    try:
        item.check_entries(array)
    except ShapeError as error:
        raise DataError(f"{path}: {error}") from None
    if dtype.kind in "iu" and not (array == np.clip(np.rint(array), np.iinfo(dtype).min, np.iinfo(dtype).max)).all():
        raise DataError(f"{path}: the input {item.name} takes whole numbers ({item.dtype}), found {array.dtype}")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity, and is found out as such
        return array.astype(dtype)


def _from_recordings(path: Path, front_end: Mapping[str, Any] | None, as_samples: bool) -> Streams:
    from edgernn.clips import read_audio
    from edgernn.frontend import LogMel, log_mel

    if front_end is None:
        raise UsageError(f"{path}: the model has no audio front end; give the frames themselves, as .npz or .npy")
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in (".wav", ".flac"))
    if not files:
        raise DataError(f"{path} has no .wav or .flac files in it")
    params = LogMel.from_dict(front_end)
    recordings = [read_audio(file, params.rate_hz) for file in files]
    return [(sound if as_samples else log_mel(sound, params),) for sound in recordings]


def _check_stream(where: str, stream: Sequence[NDArray[Any]], inputs: Sequence[TensorSpec]) -> None:
    for array, item in zip(stream, inputs, strict=False):
        if array.shape[1:] != item.shape[2:]:
            sizes = "".join(f", {size}" for size in item.shape[2:])
            raise DataError(f"{where}: expected frames of shape (frames{sizes}), found {array.shape}")
        if not np.isfinite(array).all():
            raise DataError(f"{where}: frame {int(np.argwhere(~np.isfinite(array))[0][0])} has NaN or infinity in it")


def generate_streams(step: StepGraph, frames: int, seed: int) -> Streams:
    """Return noise for each input of a step; raise `UsageError` for one that noise says nothing about."""
    random, spec = np.random.default_rng(seed), step.spec()
    return [
        (
            *(_noise(random, frames, item) for item in spec.inputs),
            *(_drawn(random, item.shape[1:], item) for item in spec.contexts),
        )
        for _ in range(max(GENERATED, step.batch))
    ]


def _noise(random: np.random.Generator, frames: int, item: TensorSpec) -> NDArray[Any]:
    shape = (frames, *item.shape[2:])
    if np.dtype(item.dtype).kind == "f" and item.below is None:
        return _smooth(random, frames, int(np.prod(shape[1:]))).reshape(shape).astype(item.dtype)
    return _drawn(random, shape, item)


def _drawn(random: np.random.Generator, shape: tuple[int, ...], item: TensorSpec) -> NDArray[Any]:
    if np.dtype(item.dtype).kind == "f" and item.below is None:
        return random.standard_normal(shape).astype(item.dtype)
    if item.dtype == "bool":
        return random.integers(0, 2, shape).astype(item.dtype)
    if item.below is None:
        raise UsageError(
            f"the input {item.name} takes whole numbers ({item.dtype}), and the model does not say which: give "
            "examples with --calibrate"
        )
    numbers = random.integers(0, item.below, shape).astype(item.dtype)
    numbers[:1] = np.clip(numbers[:1], min(1, item.below - 1), None)  # a mask may hide 0: there is a mean from here on
    return numbers


def generate_sound(samples: int, count: int, rate_hz: int, seed: int) -> Streams:
    """Return noise, full scale at ±1, that is now louder and now quieter, ten times a second."""
    random, part = np.random.default_rng(seed), max(rate_hz // 10, 1)
    streams: Streams = []
    for _ in range(count):
        loudness = np.repeat(10 ** random.uniform(-3.5, -0.7, -(-samples // part)), part)[:samples]
        streams.append((np.clip(loudness * random.standard_normal(samples), -1, 1).astype(np.float32),))
    return streams


def _smooth(random: np.random.Generator, frames: int, width: int) -> NDArray[np.float64]:
    """Half slow, half fast, of unit variance: like features that change over some ten frames."""
    fast = random.standard_normal((frames, width))
    slow = np.empty_like(fast)
    slow[0] = fast[0]
    for index in range(1, frames):
        slow[index] = 0.9 * slow[index - 1] + np.sqrt(1 - 0.9**2) * fast[index]
    result: NDArray[np.float64] = (slow + random.standard_normal((frames, width))) / np.sqrt(2)
    return result


def _frames(array: NDArray[Any], start: int, count: int) -> NDArray[Any]:
    return array[start : start + count]


def one_stream(streams: Streams, frames: int, inputs: int) -> tuple[NDArray[Any], ...]:
    """Join streams end to end, again and again if need be, into one of `frames` frames with the contexts of the first.

    `inputs` is how many arrays of a stream have frames.
    """
    joined = [np.concatenate(arrays) for arrays in zip(*(stream[:inputs] for stream in streams), strict=True)]
    return (*(np.resize(array, (frames, *array.shape[1:])) for array in joined), *streams[0][inputs:])


def lanes(streams: Streams, frames: int, batch: int, inputs: int) -> tuple[NDArray[Any], ...]:
    """Return one stream of `frames` frames or, for a batch above one, as many different ones: `(batch, frames, …)`."""
    if batch == 1:
        return one_stream(streams, frames, inputs)
    starts = [lane * len(streams) // batch for lane in range(batch)]
    each = [one_stream([*streams[start:], *streams[:start]], frames + batch, inputs) for start in starts]
    shifted = [  # one stream may be all there is
        in_time(stream, inputs, partial(_frames, start=lane, count=frames)) for lane, stream in enumerate(each)
    ]
    return tuple(np.stack(arrays) for arrays in zip(*shifted, strict=True))

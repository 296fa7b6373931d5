"""Streams that are like a model's input: read from files, or generated."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.errors import DataError, UsageError
from edgernn.quantize.graph import attribute, shape_of
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import TensorSpec

__all__ = ["Streams", "generate_streams", "lanes", "load_arrays", "one_stream", "read_streams"]

Streams = list[tuple[NDArray[Any], ...]]
"""Each stream has an array for each input of the model, shape `(frames, features...)`, in the input's dtype."""

GENERATED = 4  # streams


def read_streams(path: Path, inputs: Sequence[TensorSpec], front_end: Mapping[str, Any] | None) -> Streams:
    """Read example streams for these inputs of a step.

    `path` is a `.npz` or `.npy` file of frames, `(frames, features...)` or `(streams, frames, features...)`, with one
    array for each input in order; or a recording or a folder of recordings, for a model that has a front end.
    """
    arrays = path.suffix in (".npz", ".npy")
    streams = _from_arrays(path, inputs) if arrays else _from_recordings(path, front_end)
    for index, stream in enumerate(streams):
        _check_stream(f"{path}, stream {index}", stream, inputs)
    return streams


def _from_arrays(path: Path, inputs: Sequence[TensorSpec]) -> Streams:
    arrays = list(load_arrays(path).values())
    if len(arrays) != len(inputs):
        raise DataError(f"{path} has {len(arrays)} arrays; expected one for each input of the model: {len(inputs)}")
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


def _features(item: TensorSpec) -> list[str]:
    """Return what the axes behind time are called in a message."""
    return ["features"] if len(item.shape) == 3 else [str(size) for size in item.shape[2:]]


def _cast(path: Path, array: NDArray[Any], item: TensorSpec) -> NDArray[Any]:
    dtype = np.dtype(item.dtype)
    if dtype.kind in "iu" and not (array == np.clip(np.rint(array), np.iinfo(dtype).min, np.iinfo(dtype).max)).all():
        raise DataError(f"{path}: the input {item.name} takes whole numbers ({item.dtype}), found {array.dtype}")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity, and is found out as such
        return array.astype(dtype)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of numbers in a `.npz` or `.npy` file; raise `DataError` for anything else."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            single = isinstance(loaded, np.ndarray)
            arrays = {"x": loaded} if single else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as NumPy arrays: {' '.join(str(error).split())}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise DataError(f"{path}: the array {name} is of type {array.dtype}; expected numbers")
    return arrays


def _from_recordings(path: Path, front_end: Mapping[str, Any] | None) -> Streams:
    from edgernn.clips import read_audio
    from edgernn.frontend import LogMel, log_mel

    if front_end is None:
        raise UsageError(f"{path}: the model has no audio front end; give the frames themselves, as .npz or .npy")
    if not path.exists():
        raise UsageError(f"{path} does not exist; expected .npz, .npy, a recording, or a folder of recordings")
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in (".wav", ".flac"))
    if not files:
        raise DataError(f"{path} has no .wav or .flac files in it")
    params = LogMel.from_dict(front_end)
    return [(log_mel(read_audio(file, params.rate_hz), params),) for file in files]


def _check_stream(where: str, stream: Sequence[NDArray[Any]], inputs: Sequence[TensorSpec]) -> None:
    for array, item in zip(stream, inputs, strict=False):
        if array.shape[1:] != item.shape[2:]:
            sizes = "".join(f", {size}" for size in item.shape[2:])
            raise DataError(f"{where}: expected frames of shape (frames{sizes}), found {array.shape}")
        if not np.isfinite(array).all():
            raise DataError(f"{where}: frame {int(np.argwhere(~np.isfinite(array))[0][0])} has NaN or infinity in it")


def generate_streams(step: StepGraph, frames: int, seed: int) -> Streams:
    """Return noise for each input of a step; raise `UsageError` for one that noise says nothing about."""
    random = np.random.default_rng(seed)
    inputs = list(zip(step.spec().inputs, step.model.graph.inputs, strict=False))
    return [
        tuple(_noise(random, frames, item, value) for item, value in inputs) for _ in range(max(GENERATED, step.batch))
    ]


def _noise(random: np.random.Generator, frames: int, item: TensorSpec, value: ir.Value) -> NDArray[Any]:
    shape = (frames, *item.shape[2:])
    if np.dtype(item.dtype).kind == "f":
        return _smooth(random, frames, int(np.prod(shape[1:]))).reshape(shape).astype(item.dtype)
    entries = _entries(value)
    if entries is None:
        raise UsageError(
            f"the input {item.name} takes whole numbers ({item.dtype}), and the model does not say which: give "
            "examples with --calibrate"
        )
    return random.integers(0, entries, shape).astype(item.dtype)


def _entries(value: ir.Value) -> int | None:
    """Return in how many entries of a table the model looks these numbers up."""
    for node, place in value.uses():
        if node.op_type == "Gather" and place == 1 and node.inputs[0] is not None and node.inputs[0].is_initializer():
            return shape_of(node.inputs[0])[int(attribute(node, "axis", 0))]
        found = _entries(node.outputs[0]) if node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze") else None
        if found is not None:
            return found
    return None


def _smooth(random: np.random.Generator, frames: int, width: int) -> NDArray[np.float64]:
    """Half slow, half fast, of unit variance: like features that change over some ten frames."""
    fast = random.standard_normal((frames, width))
    slow = np.empty_like(fast)
    slow[0] = fast[0]
    for index in range(1, frames):
        slow[index] = 0.9 * slow[index - 1] + np.sqrt(1 - 0.9**2) * fast[index]
    result: NDArray[np.float64] = (slow + random.standard_normal((frames, width))) / np.sqrt(2)
    return result


def one_stream(streams: Streams, frames: int) -> tuple[NDArray[Any], ...]:
    """Join streams end to end, again and again if need be, into one of `frames` frames."""
    joined = [np.concatenate(arrays) for arrays in zip(*streams, strict=True)]
    return tuple(np.resize(array, (frames, *array.shape[1:])) for array in joined)


def lanes(streams: Streams, frames: int, batch: int) -> tuple[NDArray[Any], ...]:
    """Return one stream of `frames` frames or, for a batch above one, as many different ones: `(batch, frames, …)`."""
    if batch == 1:
        return one_stream(streams, frames)
    starts = [lane * len(streams) // batch for lane in range(batch)]
    each = [one_stream([*streams[start:], *streams[:start]], frames + batch) for start in starts]
    return tuple(
        np.stack([array[lane : lane + frames] for lane, array in enumerate(arrays)])  # shifted: one stream may be all
        for arrays in zip(*each, strict=True)
    )

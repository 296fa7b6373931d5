"""Real values into a runtime's tensors and out of them again, without allocating anything.

A port is made once, when a model is opened. Each is a closure and not an object with a method: at a few
microseconds a step, looking up attributes shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ShapeError
from edgernn.spec import StreamSpec, TensorSpec

__all__ = ["Reader", "Writer", "not_arrays", "reader", "writer", "wrong_number"]

Writer = Callable[[NDArray[Any]], None]
"""Puts the frames of a step, real values, shape `TensorSpec.step_shape`, into a tensor; raises `ShapeError`."""
Reader = Callable[[], None]
"""Brings the real values of an output tensor into the array that was made with it."""


def writer(spec: TensorSpec, tensor: NDArray[Any]) -> Writer:
    """Return what fills `tensor` (shape and dtype of `spec`) with real values."""
    if spec.real_dtype != "float32" or spec.below is not None:
        return _numbering(spec, tensor)
    return _quantizing(spec, tensor) if spec.quant else _casting(spec, tensor)


def _casting(spec: TensorSpec, tensor: NDArray[Any]) -> Writer:
    view, shape = tensor.reshape(spec.step_shape), spec.step_shape

    def write(frames: NDArray[Any]) -> None:
        if frames.shape != shape:
            raise _wrong_shape(spec, frames)
        view[...] = frames

    return write


def _numbering(spec: TensorSpec, tensor: NDArray[Any]) -> Writer:
    """Take whole numbers, such as the indices of words: runtimes differ in what they do with one beyond the table."""
    view, shape, kinds = (
        tensor.reshape(spec.step_shape),
        spec.step_shape,
        "iuf" if spec.real_dtype == "float32" else "iu",
    )
    check = spec.check_entries

    def write(frames: NDArray[Any]) -> None:
        if frames.shape != shape:
            raise _wrong_shape(spec, frames)
        if frames.dtype.kind not in kinds:
            raise ShapeError(f"the input '{spec.name}' takes whole numbers ({spec.dtype}), found {frames.dtype}")
        check(frames)
        view[...] = frames

    return write


def _quantizing(spec: TensorSpec, tensor: NDArray[Any]) -> Writer:
    """Do what `QuantParams.quantize` does, to the bit: divide, round half to even, shift, clip, then cast.

    The operands are arrays of one shape, not scalars: NumPy takes 0.3 µs for such a call, and 0.9 µs with a
    scalar. Still it is 2 µs a step; a model that takes float32 and quantizes inside does it for a tenth of that.
    """
    assert spec.quant is not None
    shape, limits = spec.step_shape, np.iinfo(spec.dtype)
    view = tensor.reshape(shape)
    levels = np.empty(shape, np.float32)
    scale, shift, low, high = (
        np.full(shape, value, np.float32) for value in (spec.quant.scale, spec.quant.zero_point, limits.min, limits.max)
    )
    divide, rint, add, fmax, fmin = np.divide, np.rint, np.add, np.fmax, np.fmin
    shifted = spec.quant.zero_point != 0

    def write(frames: NDArray[Any]) -> None:
        if frames.shape != shape:
            raise _wrong_shape(spec, frames)
        divide(frames, scale, levels)
        rint(levels, levels)
        if shifted:
            add(levels, shift, levels)
        fmax(levels, low, levels)
        fmin(levels, high, levels)
        view[...] = levels

    return write


def reader(spec: TensorSpec, tensor: NDArray[Any], in_place: bool) -> tuple[NDArray[np.float32], Reader | None]:
    """Return the array that holds the output's real values, and what brings them there.

    With `in_place`, a float32 tensor is that array itself, and there is nothing to bring.
    """
    if spec.dtype == "float32" and in_place:
        return tensor, None
    real = np.zeros(spec.shape, np.float32)
    return real, _dequantizing(spec, tensor, real) if spec.quant else _copying(tensor, real)


def _copying(tensor: NDArray[Any], real: NDArray[np.float32]) -> Reader:
    def read() -> None:
        real[...] = tensor

    return read


def _dequantizing(spec: TensorSpec, tensor: NDArray[Any], real: NDArray[np.float32]) -> Reader:
    """Do what `QuantParams.dequantize` does, to the bit."""
    assert spec.quant is not None
    scale = np.full(spec.shape, spec.quant.scale, np.float32)
    shift = np.full(spec.shape, spec.quant.zero_point, np.float32)
    subtract, multiply, shifted = np.subtract, np.multiply, spec.quant.zero_point != 0

    def read() -> None:
        real[...] = tensor
        if shifted:
            subtract(real, shift, real)
        multiply(real, scale, real)

    return read


def _wrong_shape(spec: TensorSpec, found: object) -> ShapeError:
    what = f"shape {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
    axes = "frames, features" if spec.shape[0] == 1 else "streams, frames, features"
    return ShapeError(
        f"the input '{spec.name}' takes an array of shape {spec.step_shape} a step ({axes}), found {what}"
    )


def wrong_number(spec: StreamSpec, frames: Sequence[object]) -> ShapeError:
    """Return the error for a step that was given too few or too many arrays."""
    names = ", ".join(tensor.name for tensor in spec.inputs)
    return ShapeError(f"a step takes {len(spec.inputs)} arrays, for the inputs {names}; found {len(frames)}")


def not_arrays(spec: StreamSpec, frames: Sequence[object]) -> ShapeError:
    """Return the error for a step that was given something else than NumPy arrays."""
    index = next((i for i, array in enumerate(frames) if not isinstance(array, np.ndarray)), 0)
    return _wrong_shape(spec.inputs[index], frames[index])

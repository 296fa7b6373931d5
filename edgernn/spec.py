"""What one step of a streaming model takes and gives: tensors, states, quantization, timing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ArtifactError

__all__ = ["QuantParams", "StateSpec", "StreamSpec", "TensorSpec"]


@dataclass(frozen=True)
class QuantParams:
    """Affine quantization of one tensor: `real = scale * (quantized - zero_point)`."""

    scale: float
    zero_point: int = 0

    def quantize(self, real: NDArray[Any], dtype: str) -> NDArray[Any]:
        """Round to nearest, clip to the dtype's range, and only then cast.

        >>> QuantParams(0.5).quantize(np.array([-100.0, 0.3, 100.0]), "int8")
        array([-128,    1,  127], dtype=int8)
        """
        limits = np.iinfo(dtype)
        levels = np.rint(np.asarray(real) / self.scale) + self.zero_point
        quantized: NDArray[Any] = np.clip(levels, limits.min, limits.max).astype(dtype)
        return quantized

    def dequantize(self, quantized: NDArray[Any]) -> NDArray[np.float32]:
        """Return the real values as float32.

        >>> QuantParams(0.5, -1).dequantize(np.array([-1, 1], np.int8))
        array([0., 1.], dtype=float32)
        """
        return ((quantized.astype(np.float32) - self.zero_point) * self.scale).astype(np.float32)


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the step, as it is named in the model file."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    quant: QuantParams | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of one such tensor."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class StateSpec:
    """One state: a tensor that leaves a step as `output` and enters the next one as `input`.

    Both ends have one shape, one dtype and one quantization, so that carrying a state copies its bits.
    """

    name: str
    """What the state is, such as "gru_1.h"."""
    input: str
    """Name of the tensor that brings the state in."""
    output: str
    """Name of the tensor that takes the state out."""
    shape: tuple[int, ...]
    dtype: str = "float32"
    quant: QuantParams | None = None
    initial: float = 0.0
    """Real value of every element after a reset."""
    hold_steps: int = 0
    """Steps after a reset during which the state keeps its initial value (what feeds it is not valid yet)."""

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def initial_array(self) -> NDArray[Any]:
        """Return the state after a reset, shape `shape`, dtype `dtype`.

        >>> StateSpec("h", "h_in", "h_out", (1, 2), "int8", QuantParams(0.1, -128)).initial_array()
        array([[-128, -128]], dtype=int8)
        """
        real = np.full(self.shape, self.initial, np.float32)
        return self.quant.quantize(real, self.dtype) if self.quant else real.astype(self.dtype)


@dataclass(frozen=True)
class StreamSpec:
    """The step of one model file.

    A step takes `frames_per_step` frames of every input. Frame `n` of an output, counted from the reset, is frame
    `n - delay` of what the source model gives for the whole sequence; outputs before that mean nothing.
    """

    inputs: tuple[TensorSpec, ...]
    """Each of shape `(1, frames_per_step, features)`."""
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]
    frames_per_step: int = 1
    output_delays: tuple[int, ...] = ()
    """For each output: its delay in its own frames. For a "prefix" output: in steps."""
    output_kinds: tuple[str, ...] = ()
    """For each output: "frames" (a sequence), or "prefix" (what the source gives for all frames so far)."""
    latency_frames: int = 0
    """Input frames by which the slowest output is later than the frame it belongs to."""

    @property
    def state_nbytes(self) -> int:
        """Bytes of all states together."""
        return sum(state.nbytes for state in self.states)

    @property
    def warmup_steps(self) -> int:
        """Steps after a reset whose outputs mean nothing yet."""
        return max(map(self._warmup, range(len(self.outputs))), default=0)

    def _warmup(self, index: int) -> int:
        frames = 1 if self.output_kinds[index] == "prefix" else self.outputs[index].shape[1]
        return -(-self.output_delays[index] // frames)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StreamSpec:
        """Read what `to_dict` wrote; raise `ArtifactError` where it does not fit."""
        try:
            return cls(
                **{
                    **values,
                    "inputs": tuple(TensorSpec(**_tensor(t)) for t in values["inputs"]),
                    "outputs": tuple(TensorSpec(**_tensor(t)) for t in values["outputs"]),
                    "states": tuple(StateSpec(**_tensor(s)) for s in values["states"]),
                    "output_delays": tuple(values["output_delays"]),
                    "output_kinds": tuple(values["output_kinds"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the stream spec in the manifest is malformed: {error!r}") from error


def _tensor(values: Mapping[str, Any]) -> dict[str, Any]:
    quant = values.get("quant")
    return {
        **values,
        "shape": tuple(int(size) for size in values["shape"]),
        "quant": None if quant is None else QuantParams(float(quant["scale"]), int(quant["zero_point"])),
    }

"""What one step of a streaming model takes and gives: tensors, states, quantization, timing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ArtifactError, ShapeError

__all__ = ["PLACEMENTS", "QuantParams", "Reader", "StateSpec", "StreamSpec", "TensorSpec"]

PLACEMENTS = ("external", "internal")
# signatures of a TFLite file with its states inside, and what they take besides the states themselves
RESET, SNAPSHOT, RESTORE = "reset", "snapshot", "restore"
STREAMS, STEPS = "streams", "(steps)"
MEANING = "(meaning)"  # entry of a snapshot: which real values its levels stand for, as a digest

KINDS = ("frames", "prefix")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
DTYPES = ("float32", "float16", "float64", "bool", *INTEGERS)
LARGEST = 2**31 - 1  # of any whole number in a manifest


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
    below: int | None = None
    """For numbers that are looked up in a table: they are from 0 to one below this."""

    @property
    def step_shape(self) -> tuple[int, ...]:
        """Shape of what `Runner.step` takes for this input: the batch axis is left out where it is one."""
        return self.shape[1:] if self.shape[0] == 1 else self.shape

    @property
    def real_dtype(self) -> str:
        """Type of its values outside of the model: float32, but for whole numbers such as the indices of words."""
        return self.dtype if self.quant is None and self.dtype in INTEGERS else "float32"

    def check_entries(self, values: NDArray[Any]) -> None:
        """Raise `ShapeError` if there is a table, and a value that is not in it.

        >>> TensorSpec("words", (1, 2), "int32", below=10).check_entries(np.array([0, 10]))
        Traceback (most recent call last):
        edgernn.errors.ShapeError: the input 'words' takes numbers from 0 to 9, found 0 to 10
        """
        if self.below is not None and values.size:
            least, most = values.min(), values.max()
            if not (least >= 0 and most < self.below):
                raise ShapeError(
                    f"the input '{self.name}' takes numbers from 0 to {self.below - 1}, found {least} to {most}"
                )

    def example(self, random: np.random.Generator) -> NDArray[Any]:
        """Return values for a step, drawn: normal ones, or any that are in the table; shape `step_shape`."""
        if self.dtype == "bool":
            return random.integers(0, 2, self.step_shape).astype(self.real_dtype)
        if self.below is None:
            return random.standard_normal(self.step_shape).astype(self.real_dtype)
        return random.integers(0, self.below, self.step_shape).astype(self.real_dtype)

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
    batch_axis: int = 0
    """Along which axis it has the streams of a batch; without one, a model's own state may have no such axis."""

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
    """Each of shape `(batch, frames_per_step, features...)`."""
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]
    frames_per_step: int = 1
    batch: int = 1
    """Streams that one step serves, each with its own states."""
    output_delays: tuple[int, ...] = ()
    """For each output: its delay in its own frames. For a "prefix" output: in steps."""
    output_kinds: tuple[str, ...] = ()
    """For each output: "frames" (a sequence), or "prefix" (what the source gives for all frames so far)."""
    latency_frames: int = 0
    """Input frames by which the slowest output is later than the frame it belongs to."""
    contexts: tuple[TensorSpec, ...] = ()
    """Inputs that a stream is given once, when it begins, and that every step reads: `(batch, ...)`, without time."""
    state_placement: str = "external"
    """Where the states are: "external", tensors that every step takes and gives, or "internal", in the model itself."""

    def example_context(self, random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Return contexts as `Runner.reset` takes them, drawn."""
        return {tensor.name: tensor.example(random) for tensor in self.contexts}

    @property
    def state_nbytes(self) -> int:
        """Bytes of all states together."""
        return sum(state.nbytes for state in self.states)

    @property
    def warmup_steps(self) -> int:
        """Steps after a reset whose outputs mean nothing yet."""
        return max(map(self._warmup, range(len(self.outputs))), default=0)

    def latency(self, frame_rate_hz: float | None) -> dict[str, float | None]:
        """Return the latency in frames and milliseconds, and what it is at most with the wait for a full step.

        Milliseconds are None where the frame rate is not known.

        >>> StreamSpec((), (), (), frames_per_step=4, latency_frames=2).latency(100.0)
        {'frames': 2, 'ms': 20.0, 'most_frames': 5, 'most_ms': 50.0}
        """
        most = self.latency_frames + self.frames_per_step - 1  # the first frame of a step waits for the last one
        ms, most_ms = (1000 * n / frame_rate_hz if frame_rate_hz else None for n in (self.latency_frames, most))
        return {"frames": self.latency_frames, "ms": ms, "most_frames": most, "most_ms": most_ms}

    def in_words(self, frame_rate_hz: float | None) -> str:
        """Return how a step is shaped, and how late it is.

        >>> StreamSpec((), (), (), frames_per_step=4, batch=2, latency_frames=2).in_words(100.0)
        '4 frames a step (40 ms) of 2 streams, latency 2 frames (20 ms), at most 5 (50 ms) until a step is full'
        """

        def ms(frames: int) -> str:
            return f" ({1000 * frames / frame_rate_hz:g} ms)" if frame_rate_hz else ""

        size, late = self.frames_per_step, self.latency_frames
        streams = f" of {self.batch} streams" if self.batch > 1 else ""
        waits = f", at most {late + size - 1}{ms(late + size - 1)} until a step is full" if size > 1 else ""
        return f"{size} frame{'s' * (size > 1)} a step{ms(size)}{streams}, latency {late} frames{ms(late)}{waits}"

    def _warmup(self, index: int) -> int:
        frames = 1 if self.output_kinds[index] == "prefix" else self.outputs[index].shape[1]
        return -(-self.output_delays[index] // frames)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StreamSpec:
        """Read what `to_dict` wrote; raise `ArtifactError` where it does not fit."""
        return cls.read(Reader(values, "the stream spec in the manifest: "))

    @classmethod
    def read(cls, read: Reader) -> StreamSpec:
        """Read what `to_dict` wrote from a section of a manifest; raise `ArtifactError` where it does not fit."""
        read.refuse_unknown(cls)
        inputs, outputs, states = read.array("inputs", least=1), read.array("outputs", least=1), read.array("states")
        contexts = read.array("contexts") if read.has("contexts") else Reader({}, "")
        delays, kinds = read.array("output_delays"), read.array("output_kinds")
        spec = cls(
            inputs=tuple(TensorSpec(**_tensor(inputs.section(i), TensorSpec)) for i in inputs),
            outputs=tuple(TensorSpec(**_tensor(outputs.section(i), TensorSpec)) for i in outputs),
            states=tuple(_state(states.section(i)) for i in states),
            frames_per_step=read.whole("frames_per_step", 1),
            batch=read.whole("batch", 1) if read.has("batch") else 1,
            output_delays=tuple(delays.whole(i) for i in delays),
            output_kinds=tuple(kinds.text(i, KINDS) for i in kinds),
            latency_frames=read.whole("latency_frames"),
            contexts=tuple(TensorSpec(**_tensor(contexts.section(i), TensorSpec)) for i in contexts),
            state_placement=read.text("state_placement", PLACEMENTS) if read.has("state_placement") else "external",
        )
        for key, entries in (("output_delays", spec.output_delays), ("output_kinds", spec.output_kinds)):
            if len(entries) != len(spec.outputs):
                raise read.wrong(key, f"an array of {len(spec.outputs)}, one entry per output")
        for i, tensor in zip(inputs, spec.inputs, strict=True):
            if tensor.shape[:2] != (spec.batch, spec.frames_per_step):
                sizes = f"{spec.batch} (batch) × {spec.frames_per_step} (frames_per_step)"
                raise inputs.section(i).wrong("shape", f"{sizes} × features")
        for i, tensor, kind in zip(outputs, spec.outputs, spec.output_kinds, strict=True):
            if len(tensor.shape) < 2:
                raise outputs.section(i).wrong("shape", f"two or more sizes, for an output of the kind '{kind}'")
            if tensor.shape[0] != spec.batch:
                raise outputs.section(i).wrong("shape", f"{spec.batch} (batch) × …")
        for tensor in spec.contexts:
            if tensor.shape[:1] != (spec.batch,):
                raise read.wrong("contexts", f"tensors of {spec.batch} (batch) × …")
        for i, state in zip(states, spec.states, strict=True):
            if spec.batch > 1 and state.shape[state.batch_axis : state.batch_axis + 1] != (spec.batch,):
                raise states.section(i).wrong("shape", f"{spec.batch} (batch) along the axis {state.batch_axis}")
        return spec


class Reader:
    """Values of a manifest by key; one that does not fit is an `ArtifactError`: where, expected, found.

    >>> Reader({"a": {"b": "x"}}, "manifest: ").section("a").whole("b")
    Traceback (most recent call last):
    edgernn.errors.ArtifactError: manifest: 'a.b' is malformed: expected a whole number of at least 0, found 'x'
    """

    def __init__(self, values: Mapping[str, Any], where: str, path: str = "") -> None:
        self.values, self._where, self._path = values, where, path

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys."""
        return iter(self.values)

    def has(self, key: str) -> bool:
        """Tell whether there is a value, and it is not null."""
        return self.values.get(key) is not None

    def wrong(self, key: str, expected: str) -> ArtifactError:
        """Return the error for the value of `key`."""
        found = repr(self.values[key]) if key in self.values else "nothing"
        found = found if len(found) <= 80 else f"{found[:80]}…"
        return ArtifactError(f"{self._where}'{self._path}{key}' is malformed: expected {expected}, found {found}")

    def refuse_unknown(self, known: type[Any]) -> None:
        """Check that every key is a field of the dataclass `known`."""
        names = [field.name for field in fields(known)]
        for key in self.values:
            if key not in names:
                raise self.wrong(key, f"only the keys {', '.join(names)}")

    def text(self, key: str, choices: tuple[str, ...] = ()) -> str:
        """Return a string, one of `choices` if there are any."""
        value = self.values.get(key)
        if not isinstance(value, str) or (choices and value not in choices):
            raise self.wrong(key, f"one of {', '.join(choices)}" if choices else "a string")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false; false where there is no value."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return bool(value)

    def number(self, key: str) -> float:
        """Return a finite number."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise self.wrong(key, "a finite number")
        return float(value)

    def positive(self, key: str) -> float:
        """Return a finite number above zero."""
        value = self.number(key)
        if value <= 0:
            raise self.wrong(key, "a number above 0")
        return value

    def whole(self, key: str, least: int = 0, most: int = LARGEST) -> int:
        """Return a whole number of at least `least` and at most `most`."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            upper = f" and at most {most}" if isinstance(value, int) and value > most else ""
            raise self.wrong(key, f"a whole number of at least {least}{upper}")
        return value

    def section(self, key: str, least: int = 0) -> Reader:
        """Return an object of at least `least` entries."""
        value = self.values.get(key)
        if not isinstance(value, Mapping) or len(value) < least:
            raise self.wrong(key, "an object" + " that is not empty" * (least > 0))
        return Reader(value, self._where, f"{self._path}{key}.")

    def array(self, key: str, least: int = 0) -> Reader:
        """Return an array of at least `least` elements; their keys are "0", "1" and so on."""
        value = self.values.get(key)
        if not isinstance(value, list | tuple) or len(value) < least:
            raise self.wrong(key, "an array" + " that is not empty" * (least > 0))
        return Reader({str(i): element for i, element in enumerate(value)}, self._where, f"{self._path}{key}.")


def _tensor(read: Reader, known: type[TensorSpec | StateSpec]) -> dict[str, Any]:
    """Return what inputs, outputs and states have in common."""
    read.refuse_unknown(known)
    shape, quant, dtype = read.array("shape"), None, read.text("dtype", DTYPES)
    if read.has("quant"):
        params = read.section("quant")
        if dtype not in INTEGERS:
            raise read.wrong("quant", f"null for the dtype {dtype}")
        params.refuse_unknown(QuantParams)
        quant = QuantParams(params.positive("scale"), params.whole("zero_point", -LARGEST))
    sizes = tuple(shape.whole(i, 1) for i in shape)
    below = {"below": read.whole("below", 1)} if read.has("below") else {}
    return {"name": read.text("name"), "shape": sizes, "dtype": dtype, "quant": quant, **below}


def _state(read: Reader) -> StateSpec:
    return StateSpec(
        **_tensor(read, StateSpec),
        input=read.text("input"),
        output=read.text("output"),
        initial=read.number("initial"),
        hold_steps=read.whole("hold_steps"),
        batch_axis=read.whole("batch_axis") if read.has("batch_axis") else 0,
    )

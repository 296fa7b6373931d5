"""A live stream: the protocols of its parts, and what joins them.

Source -> FrontEnd -> Runner -> decoder -> Event -> Message -> Sink

`FrameStream` is the model alone, frames in any cut to outputs (`FrameBatch` for several streams in one step). From
samples to events it is `edgernn.event_stream.Stream`; from frames of a sensor or a camera,
`edgernn.sensor_stream.SensorStream`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ShapeError, UsageError
from edgernn.events import Event, Message
from edgernn.spec import StreamSpec, TensorSpec

__all__ = [
    "Chunk",
    "Context",
    "Decoder",
    "FrameBatch",
    "FrameStream",
    "Runner",
    "Scorer",
    "Sink",
    "Source",
    "State",
]

Context = Mapping[str, NDArray[Any]]
"""What a stream is given once, when it begins: name of each context of the model to its array."""
State = Mapping[str, NDArray[Any]]
"""A snapshot: name of each state to a copy of its array, for one stream or all of a batch."""


@dataclass(frozen=True)
class Chunk:
    """What a source delivers at once."""

    samples: NDArray[np.float32]
    """Sound `(n,)`, mono, full scale at ±1; or frames `(n, features...)`."""
    time_s: float
    """When its last sample was there, on the monotonic clock, seconds."""
    lost: int = 0
    """Samples or frames that are missing just before this chunk."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """What the source did not deliver since the last chunk, by cause: samples, frames, or messages it could not read.

    Empty where `lost` says it all.
    """
    idle: bool = False
    """Without samples, and rightly so: the source is well, and there is nothing to be had just now."""

    @property
    def causes(self) -> Mapping[str, int]:
        """What is to be counted, by cause."""
        return self.dropped or ({"lost": self.lost} if self.lost else {})


class Runner(Protocol):
    """One step model in one runtime, with its state. Not for several threads at once."""

    spec: StreamSpec
    runtime: str
    """Name and version, such as "ai-edge-litert 2.3.0"."""

    def step(self, *frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Take one step.

        `frames` has an array for each input, shape `(frames_per_step, features...)`, with an axis for the streams
        before that if the model takes more than one; float32 real values (an int8 model is quantized to and from
        inside). Returns an array for each output, shape `(batch, frames, features...)` or `(batch, features...)`:
        views that the next step overwrites; copy what must last. Raises `ShapeError` for a wrong shape or number of
        arrays.
        """

    def reset(self, stream: int | None = None, context: Context | None = None) -> None:
        """Put every state back to its initial value: of all streams, or of one, and not a bit of the others changes.

        What begins has `context`, an array for each of `spec.contexts`, float32 real values without the batch (or, for
        all streams of a batch, with it, too); without one it keeps what it had. A model that has contexts steps only
        when every stream was given its own. Raises `UsageError` for a stream that the step does not serve, `ShapeError`
        for a context that does not fit, with nothing changed.
        """

    def snapshot(self, stream: int | None = None) -> State:
        """Return copies of all states and contexts, and of how far the warm-up is: of all streams or one."""

    def restore(self, state: State, stream: int | None = None) -> None:
        """Go on from a snapshot, of this runner or another one of the same model file.

        That of one stream fits any stream. Raises `ShapeError` if it is a snapshot of another model (told by names,
        shapes, dtypes and scales of the states; not by weights), or of another number of streams.
        """

    def close(self) -> None:
        """Free the runtime; closing twice is harmless."""


class Scorer(Protocol):
    """A step's frames and outputs to rows of scores `(labels,)` for the decoder."""

    @property
    def delay_rows(self) -> int:
        """How many rows after a reset say nothing yet: the warm-up."""

    def rows(self, frames: NDArray[np.float32], outputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Take the frames of one step and what came of it; return `(n, labels)`."""

    def reset(self) -> None:
        """Forget the stream."""


class Decoder(Protocol):
    """Scores to events."""

    def push(self, scores: NDArray[np.float32]) -> Event | None:
        """Take the scores `(labels,)` of one step; return the event they complete, timed from the last reset."""

    def reset(self) -> None:
        """Forget the stream."""


class Source(Protocol):
    """Where samples come from. Iterating gives chunks until the source ends or is closed."""

    @property
    def rate_hz(self) -> float:
        """Samples per second of what it delivers (after resampling), or frames."""

    def __iter__(self) -> Iterator[Chunk]: ...

    def close(self) -> None:
        """Stop and free the device; closing twice is harmless."""


class Sink(Protocol):
    """Where events go."""

    def write(self, message: Message) -> None:
        """Deliver one event: when this returns, it has arrived.

        Raises `SinkError` if it may not have; `RefusedError` if trying again would be in vain.
        """

    def close(self) -> None:
        """Flush and free; closing twice is harmless."""


class FrameStream:
    """A runner of one stream whose frames may come in any cut, and whose outputs line up with the source model's.

    It waits until a step's frames are there, and drops what comes out during the warm-up: the outputs of all calls
    since a reset, put together, begin as those of the source model for the whole sequence.
    """

    def __init__(self, runner: Runner) -> None:
        if runner.spec.batch != 1:
            raise UsageError(f"the model takes {runner.spec.batch} streams at once: open it with FrameBatch")
        self._batch = FrameBatch(runner)
        self.runner = runner

    @property
    def steps(self) -> int:
        """Steps made since the last reset."""
        return self._batch.steps

    def reset(self, context: Context | None = None) -> None:
        """Forget everything; the next frame begins a new stream, with another `context` if one is given."""
        self._batch.reset(context=context)

    def push(self, *frames: NDArray[Any]) -> tuple[NDArray[np.float32], ...]:
        """Take frames `(n, features...)` for each input, any `n`; return what each output has for them.

        Returns new arrays: `(m, features...)` with a row for each frame of a "frames" output, and for each step of a
        "prefix" output. Raises `ShapeError`, with nothing taken, for a wrong shape, dtype or number, and for NaN.
        """
        return self._batch.push([frames])[0]


class FrameBatch:
    """A runner of several streams, such as four microphones: each may bring its frames in any cut, at its own pace.

    A step is made when every stream has the frames for it, so that one that pauses makes all wait: feed zeros for a
    source that is gone, and reset its stream when it is back. Outputs line up as in `FrameStream`, stream by stream.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.steps = 0
        """Steps made since all streams were reset together."""
        self._lanes = [_Lane(runner.spec) for _ in range(runner.spec.batch)]
        self.reset()

    @property
    def waiting(self) -> list[int]:
        """Frames of each stream that wait for a step."""
        return [lane.frames for lane in self._lanes]

    def reset(self, stream: int | None = None, context: Context | None = None) -> None:
        """Forget one stream, or all; its next frame begins a new one. The others go on as if nothing had happened.

        `context` is as in `Runner.reset`.
        """
        self.runner.reset(stream, context)
        for lane in self._lanes if stream is None else [self._lanes[stream]]:
            lane.reset()
        self.steps = 0 if stream is None else self.steps

    def push(self, streams: Sequence[Sequence[NDArray[Any]]]) -> list[tuple[NDArray[np.float32], ...]]:
        """Take frames for each stream: for each input of the model an array `(n, features...)`, any `n`, also none.

        Returns for each stream what each output has for it, as `FrameStream.push` does. Raises `ShapeError`, with
        nothing taken, for a wrong shape, dtype or number, and for NaN.
        """
        if len(streams) != len(self._lanes):
            raise ShapeError(f"the model takes {len(self._lanes)} streams at once, found {len(streams)}")
        for lane, frames in zip(self._lanes, streams, strict=True):
            lane.check(frames)
        for lane, frames in zip(self._lanes, streams, strict=True):
            lane.add(frames)
        steps = min(self.waiting) // self.runner.spec.frames_per_step
        for number in range(steps):
            self._step(number)
        for lane in self._lanes:
            lane.drop(steps)
        self.steps += steps
        return [lane.rows() for lane in self._lanes]

    def _step(self, number: int) -> None:
        taken = [lane.frames_of(number) for lane in self._lanes]
        outputs = self.runner.step(*(taken[0] if len(taken) == 1 else map(np.stack, zip(*taken, strict=True))))
        for index, lane in enumerate(self._lanes):
            lane.collect([output[index] for output in outputs])


class _Lane:
    """One stream of a runner: the frames that wait for a step, the rows that came out, what is left of its warm-up."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self.reset()

    def reset(self) -> None:
        self._waiting = [np.zeros((0, *tensor.shape[2:]), tensor.real_dtype) for tensor in self._spec.inputs]
        self._rows: list[list[NDArray[np.float32]]] = [[] for _ in self._spec.outputs]
        self._to_drop = list(self._spec.output_delays)

    @property
    def frames(self) -> int:
        return len(self._waiting[0])

    def add(self, frames: Sequence[NDArray[Any]]) -> None:
        self._waiting = [
            np.concatenate([old, new.astype(old.dtype, copy=False)])
            for old, new in zip(self._waiting, frames, strict=True)
        ]

    def frames_of(self, step: int) -> list[NDArray[Any]]:
        size = self._spec.frames_per_step
        return [array[step * size : (step + 1) * size] for array in self._waiting]

    def drop(self, steps: int) -> None:
        self._waiting = [array[steps * self._spec.frames_per_step :] for array in self._waiting]

    def collect(self, outputs: Sequence[NDArray[np.float32]]) -> None:
        for rows, output, kind in zip(self._rows, outputs, self._spec.output_kinds, strict=True):
            rows.append((output if kind == "frames" else output[None]).copy())

    def rows(self) -> tuple[NDArray[np.float32], ...]:
        """Return the rows that came out since the last call, without those of the warm-up."""
        rows, self._rows = self._rows, [[] for _ in self._rows]
        return tuple(self._without_warmup(index, parts) for index, parts in enumerate(rows))

    def _without_warmup(self, index: int, rows: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        if not rows:
            shape = self._spec.outputs[index].shape[1 + (self._spec.output_kinds[index] == "frames") :]
            return np.zeros((0, *shape), np.float32)
        joined = np.concatenate(rows)
        dropped = min(len(joined), self._to_drop[index])
        self._to_drop[index] -= dropped
        return joined[dropped:]

    def check(self, frames: Sequence[NDArray[Any]]) -> None:
        inputs = self._spec.inputs
        if len(frames) != len(inputs):
            raise ShapeError(f"the model has {len(inputs)} inputs, found {len(frames)} arrays")
        for tensor, array in zip(inputs, frames, strict=True):
            _check_frames(tensor, array)
            if len(array) != len(frames[0]):
                raise ShapeError(f"the inputs have {len(frames[0])} and {len(array)} frames, not equally many")


def _check_frames(tensor: TensorSpec, array: NDArray[Any]) -> None:
    if not isinstance(array, np.ndarray) or array.ndim < 1 or array.shape[1:] != tensor.shape[2:]:
        what = f"shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        shape = ", ".join(["n", *map(str, tensor.shape[2:])])
        raise ShapeError(f"the input '{tensor.name}' takes frames of shape ({shape}), found {what}")
    whole = tensor.real_dtype != "float32"
    if array.dtype.kind not in ("iu" if whole else "fiu") or not np.isfinite(array).all():
        found = "NaN or infinity" if array.dtype.kind == "f" and not whole else f"dtype {array.dtype}"
        raise ShapeError(f"the input '{tensor.name}' takes {'whole' if whole else 'finite'} numbers, found {found}")
    tensor.check_entries(array)

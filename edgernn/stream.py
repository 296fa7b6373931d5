"""A live stream: the protocols of its parts, and what joins them.

Source -> FrontEnd -> Runner -> decoder -> Event -> Sink

`FrameStream` is the model alone, frames in any cut to outputs; `Stream` is all from samples to events.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ShapeError, UsageError
from edgernn.events import Event
from edgernn.frontend import FrontEnd
from edgernn.spec import StreamSpec

__all__ = ["Chunk", "Decoder", "FrameStream", "Runner", "Sink", "Source", "State", "Stream"]

State = Mapping[str, NDArray[Any]]
"""A snapshot: name of each state to a copy of its array."""


@dataclass(frozen=True)
class Chunk:
    """What a source delivers at once."""

    samples: NDArray[np.float32]
    """Shape `(n,)`, mono, full scale at ±1."""
    time_s: float
    """When its last sample was there, on the monotonic clock, seconds."""
    lost: int = 0
    """Samples that were lost just before this chunk."""


class Runner(Protocol):
    """One step model in one runtime, with its state. Not for several threads at once."""

    spec: StreamSpec
    runtime: str
    """Name and version, such as "ai-edge-litert 2.3.0"."""

    def step(self, *frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Take one step.

        `frames` has an array for each input, shape `(frames_per_step, features)`, float32 real values (an int8
        model is quantized to and from inside). Returns an array for each output, shape `(1, frames, features)`
        or `(1, features)`: views that the next step overwrites; copy what must last. Raises `ShapeError` for a
        wrong shape or number of arrays.
        """

    def reset(self) -> None:
        """Put every state back to its initial value."""

    def snapshot(self) -> State:
        """Return copies of all states (and how far the warm-up is), to be given to `restore`."""

    def restore(self, state: State) -> None:
        """Go on from a snapshot, of this runner or another one of the same model file.

        Raises `ShapeError` if it is a snapshot of another model.
        """

    def close(self) -> None:
        """Free the runtime; closing twice is harmless."""


class Decoder(Protocol):
    """Scores to events."""

    def push(self, scores: NDArray[np.float32]) -> Event | None:
        """Take the scores `(labels,)` of one step; return the event they complete, timed from the last reset."""

    def reset(self) -> None:
        """Forget the stream."""


class Source(Protocol):
    """Where samples come from. Iterating gives chunks until the source ends or is closed."""

    rate_hz: int
    """Samples per second of what it delivers (after resampling)."""

    def __iter__(self) -> Iterator[Chunk]: ...

    def close(self) -> None:
        """Stop and free the device; closing twice is harmless."""


class Sink(Protocol):
    """Where events go."""

    def write(self, event: Event) -> None:
        """Deliver one event."""

    def close(self) -> None:
        """Flush and free; closing twice is harmless."""


class FrameStream:
    """A runner whose frames may come in any cut, and whose outputs line up with the source model's.

    It waits until a step's frames are there, and drops what comes out during the warm-up: the outputs of all calls
    since a reset, put together, begin as those of the source model for the whole sequence.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.steps = 0
        """Steps made since the last reset."""
        self._waiting = [np.zeros((0, tensor.shape[2]), np.float32) for tensor in runner.spec.inputs]
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next frame begins a new stream."""
        self.runner.reset()
        self.steps = 0
        self._waiting = [waiting[:0] for waiting in self._waiting]
        self._to_drop = list(self.runner.spec.output_delays)

    def push(self, *frames: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float32], ...]:
        """Take frames `(n, features)` for each input, any `n`; return what each output has for them.

        Returns new arrays: `(m, features)` with a row for each frame of a "frames" output, and for each step of a
        "prefix" output. Raises `ShapeError`, with nothing taken, for a wrong shape, dtype or number, and for NaN.
        """
        self._check(frames)
        joined = [
            np.concatenate([old, new.astype(np.float32, copy=False)])
            for old, new in zip(self._waiting, frames, strict=True)
        ]
        size = self.runner.spec.frames_per_step
        steps = len(joined[0]) // size
        outputs: list[list[NDArray[np.float32]]] = [[] for _ in self.runner.spec.outputs]
        for start in range(0, steps * size, size):
            step_outputs = self.runner.step(*(array[start : start + size] for array in joined))
            for rows, output in zip(outputs, step_outputs, strict=True):
                rows.append(output.reshape(-1, output.shape[-1]).copy())
        self.steps += steps
        self._waiting = [array[steps * size :] for array in joined]
        return tuple(self._without_warmup(index, rows) for index, rows in enumerate(outputs))

    def _without_warmup(self, index: int, rows: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        if not rows:
            return np.zeros((0, self.runner.spec.outputs[index].shape[-1]), np.float32)
        joined = np.concatenate(rows)
        dropped = min(len(joined), self._to_drop[index])
        self._to_drop[index] -= dropped
        return joined[dropped:]

    def _check(self, frames: tuple[NDArray[np.floating[Any]], ...]) -> None:
        inputs = self.runner.spec.inputs
        if len(frames) != len(inputs):
            raise ShapeError(f"the model has {len(inputs)} inputs, found {len(frames)} arrays")
        for tensor, array in zip(inputs, frames, strict=True):
            features = tensor.shape[2]
            if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] != features:
                what = f"shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                raise ShapeError(f"the input '{tensor.name}' takes frames of shape (n, {features}), found {what}")
            if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
                found = "NaN or infinity" if array.dtype.kind == "f" else f"dtype {array.dtype}"
                raise ShapeError(f"the input '{tensor.name}' takes finite numbers, found {found}")
            if len(array) != len(frames[0]):
                raise ShapeError(f"the inputs have {len(frames[0])} and {len(array)} frames, not equally many")


class Stream:
    """Samples in any cut to events: front end, steps and decoder. Not for several threads at once.

    A gap of lost samples up to `LONGEST_PATCH_S` is filled with zeros, which a recurrent network forgets soon.
    After a longer one everything is reset, since the states are about sound of long ago. Event times count the
    gap either way, so that they stay true to the clock on the wall.
    """

    LONGEST_PATCH_S = 0.1

    def __init__(self, front_end: FrontEnd, runner: Runner, decoder: Decoder) -> None:
        spec = runner.spec
        bands = front_end.params.bands
        if len(spec.inputs) != 1 or spec.inputs[0].shape[2] != bands:
            found = ", ".join(f"{tensor.name} {tensor.shape}" for tensor in spec.inputs)
            raise UsageError(f"the front end gives {bands} features a frame, and the model takes {found}")
        self.front_end = front_end
        self.runner = runner
        self.decoder = decoder
        self.rate_hz = front_end.params.rate_hz
        self.step_us: deque[float] = deque(maxlen=10_000)
        """How long the latest steps took, in microseconds."""
        self.samples = self.lost = self.frames = self.steps = self.events = self.resets = 0
        self._frames_per_step = spec.frames_per_step
        self._waiting = np.zeros((0, bands), np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget the sound so far and start the clock anew; what was counted stays counted."""
        self._clock_samples = 0
        self._restart()

    def _restart(self) -> None:
        self.front_end.reset()
        self.runner.reset()
        self.decoder.reset()
        self._waiting = self._waiting[:0]
        self._start_samples = self._clock_samples
        self._to_drop = self.runner.spec.output_delays[0]

    def push(self, samples: NDArray[np.floating[Any]], lost: int = 0) -> list[Event]:
        """Take samples `(n,)`, full scale at ±1, of which `lost` are missing just before; return what was decided.

        Raises `ShapeError` for another shape and for NaN.
        """
        events = self._bridge(lost) if lost else []
        frames = self.front_end.push(samples)
        self.samples += len(samples)
        self._clock_samples += len(samples)
        return events + self._step_through(frames)

    def _bridge(self, lost: int) -> list[Event]:
        self.lost += lost
        self._clock_samples += lost
        if lost <= self.LONGEST_PATCH_S * self.rate_hz:
            return self._step_through(self.front_end.push(np.zeros(lost, np.float32)))
        self._restart()
        self.resets += 1
        return []

    def _step_through(self, frames: NDArray[np.float32]) -> list[Event]:
        self.frames += len(frames)
        if len(self._waiting):
            frames = np.concatenate([self._waiting, frames])
        size, events = self._frames_per_step, []
        steps = len(frames) // size
        for start in range(0, steps * size, size):
            before = time.perf_counter()
            output = self.runner.step(frames[start : start + size])[0]
            self.step_us.append((time.perf_counter() - before) * 1e6)
            for row in output.reshape(-1, output.shape[-1]):
                event = self._decode(row)
                if event is not None:
                    events.append(event)
        self.steps += steps
        self._waiting = frames[steps * size :]
        return events

    def _decode(self, row: NDArray[np.float32]) -> Event | None:
        if self._to_drop:  # the warm-up, so that the decoder's steps are the source model's
            self._to_drop -= 1
            return None
        event = self.decoder.push(row)
        if event is None:
            return None
        self.events += 1
        offset = self._start_samples / self.rate_hz
        return replace(event, start_s=round(event.start_s + offset, 4), end_s=round(event.end_s + offset, 4))

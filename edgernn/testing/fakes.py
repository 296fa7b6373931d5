"""Fakes: a runner, a source and a sink without any hardware or runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ShapeError, StepError, UsageError
from edgernn.events import Event, Message
from edgernn.spec import StateSpec, StreamSpec, TensorSpec
from edgernn.stream import Chunk, Context, State

__all__ = ["ArraySource", "FakeRunner", "ListSink"]


class FakeRunner:
    """A runner in NumPy whose one output is the running sum of its frames, features kept apart.

    >>> runner = FakeRunner(features=2)
    >>> _ = runner.step(np.array([[1.0, 2.0]], np.float32))
    >>> runner.step(np.array([[1.0, 2.0]], np.float32))[0].tolist()
    [[[2.0, 4.0]]]
    """

    runtime = "fake 1.0"

    def __init__(self, features: int, frames_per_step: int = 1, batch: int = 1) -> None:
        self.spec = StreamSpec(
            inputs=(TensorSpec("x", (batch, frames_per_step, features)),),
            outputs=(TensorSpec("y", (batch, frames_per_step, features)),),
            states=(StateSpec("sum", "sum_in", "sum_out", (batch, features)),),
            frames_per_step=frames_per_step,
            batch=batch,
            output_delays=(0,),
            output_kinds=("frames",),
        )
        self.closed = False
        self._sum = np.zeros((batch, features), np.float32)

    def step(self, *frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Add the frames up."""
        if self.closed:
            raise StepError("the runner is closed")
        tensor = self.spec.inputs[0]
        if len(frames) != 1 or not isinstance(frames[0], np.ndarray) or frames[0].shape != tensor.step_shape:
            raise ShapeError(f"expected one array of shape {tensor.step_shape}")
        sums = self._sum[:, None] + np.cumsum(frames[0].reshape(tensor.shape), axis=1, dtype=np.float32)
        self._sum = sums[:, -1]
        return (sums,)

    def reset(self, stream: int | None = None, context: Context | None = None) -> None:
        """Begin at zero."""
        self._sum = self._sum.copy()
        self._sum[self._chosen(stream)] = 0

    def snapshot(self, stream: int | None = None) -> State:
        """Return the sum."""
        return {"sum": self._sum[self._chosen(stream)].copy()}

    def restore(self, state: State, stream: int | None = None) -> None:
        """Go on from a sum."""
        chosen = self._chosen(stream)
        if set(state) != {"sum"} or state["sum"].shape != self._sum[chosen].shape:
            raise ShapeError("the snapshot is of another model")
        self._sum = self._sum.copy()
        self._sum[chosen] = state["sum"]

    def _chosen(self, stream: int | None) -> slice:
        if stream is not None and not 0 <= stream < len(self._sum):
            raise UsageError(f"there is no stream {stream}")
        return slice(None) if stream is None else slice(stream, stream + 1)

    def close(self) -> None:
        """Refuse further steps."""
        self.closed = True


class ArraySource:
    """A source that gives an array in chunks, at once.

    >>> [len(chunk.samples) for chunk in ArraySource(np.zeros(5, np.float32), chunk_samples=2)]
    [2, 2, 1]
    """

    def __init__(
        self,
        samples: NDArray[np.float32],
        rate_hz: int = 16000,
        chunk_samples: int = 320,
        lost: Sequence[int] = (),
    ) -> None:
        self.rate_hz = rate_hz
        self._samples = samples
        self._chunk = chunk_samples
        self._lost = dict(enumerate(lost))
        self._closed = False

    def __iter__(self) -> Iterator[Chunk]:
        for number, start in enumerate(range(0, len(self._samples), self._chunk)):
            if self._closed:
                return
            part = self._samples[start : start + self._chunk]
            yield Chunk(part, (start + len(part)) / self.rate_hz, self._lost.get(number, 0))

    def close(self) -> None:
        """End the iteration."""
        self._closed = True


class ListSink:
    """A sink that keeps its messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.closed = False

    @property
    def events(self) -> list[Event]:
        """What the messages say."""
        return [message.event for message in self.messages]

    def write(self, message: Message) -> None:
        """Keep one message."""
        self.messages.append(message)

    def close(self) -> None:
        """Note that it happened."""
        self.closed = True

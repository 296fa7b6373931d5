"""The protocols of a live stream: a source gives chunks, a runner steps, a sink takes events.

Source -> FrontEnd -> Runner -> decoder -> Event -> Sink
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgernn.events import Event
from edgernn.spec import StreamSpec

__all__ = ["Chunk", "Runner", "Sink", "Source", "State"]

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

        `frames` has an array for each input, shape `(frames_per_step, features)`, float32 real values (an int8 model
        is quantized to and from inside). Returns an array for each output, shape `(1, frames, features)` or
        `(1, features)`: views that the next step overwrites; copy what must last. Raises `ShapeError` for a wrong
        shape or number of arrays.
        """

    def reset(self) -> None:
        """Put every state back to its initial value."""

    def snapshot(self) -> State:
        """Return copies of all states (and how far the warm-up is), to be given to `restore`."""

    def restore(self, state: State) -> None:
        """Go on from a snapshot, of this runner or another one of the same model file."""

    def close(self) -> None:
        """Free the runtime; closing twice is harmless."""


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

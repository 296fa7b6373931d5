"""A live stream of frames: sensor values or pictures, without a front end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ShapeError, UsageError
from edgernn.event_stream import EventStream
from edgernn.events import Event
from edgernn.stream import Decoder, Runner, Scorer

__all__ = ["HOLD_FRAMES", "SensorStream"]

HOLD_FRAMES = 5


class SensorStream(EventStream):
    """Frames in any cut to events: steps and decoder. Not for several threads at once.

    A frame that is lost is bridged by the one before it, and so is each value that is NaN or infinite; up to
    `hold_frames` in a row. After more, everything is reset at the next whole frame, since the states are about what
    was long ago. Event times count the gap either way.
    """

    def __init__(
        self,
        runner: Runner,
        decoder: Decoder,
        rate_hz: float,
        scorer: Scorer | None = None,
        hold_frames: int = HOLD_FRAMES,
    ) -> None:
        spec = runner.spec
        if spec.batch != 1 or len(spec.inputs) != 1:
            found = f"{len(spec.inputs)} inputs" if spec.batch == 1 else f"{spec.batch} streams at once"
            raise UsageError(f"the model takes {found}, and this is one stream: use edgernn.stream.FrameBatch")
        if not 0 < rate_hz < float("inf"):
            raise UsageError(f"frames must come at a rate above 0 a second, not {rate_hz}")
        self._shape = spec.inputs[0].shape[2:]
        self._dtype = spec.inputs[0].real_dtype
        super().__init__(runner, decoder, rate_hz, self._shape, scorer=scorer)
        self.hold_frames = hold_frames
        self.reset()

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame."""
        return self._shape

    def _restart(self) -> None:
        super()._restart()
        self._last: NDArray[np.float32] | None = None
        self._missing = 0  # frames in a row, up to now

    def push(self, samples: NDArray[np.floating[Any]], lost: int = 0) -> list[Event]:
        """Take frames `(n, features...)`, of which `lost` are missing just before; return what was decided.

        Raises `ShapeError` for another shape or type, with nothing taken.
        """
        frames = self._checked(samples)
        self.samples += len(frames)
        self.lost += lost
        events = self._miss(lost) if lost else []
        if np.isfinite(frames).all():
            return events + self._take(frames)
        for frame in frames:
            events += self._take(frame[None]) if np.isfinite(frame).all() else self._mend(frame)
        return events

    def _checked(self, frames: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        if not isinstance(frames, np.ndarray) or frames.shape[1:] != self._shape or frames.dtype.kind not in "fiu":
            found = f"{getattr(frames, 'dtype', type(frames).__name__)} {getattr(frames, 'shape', '')}".strip()
            shape = ", ".join(["n", *map(str, self._shape)])
            raise ShapeError(f"the model takes frames of shape ({shape}), found {found}")
        return frames.astype(np.float32, copy=False)

    def _take(self, frames: NDArray[np.float32]) -> list[Event]:
        """Step through whole frames."""
        if not len(frames):
            return []
        if self._missing > self.hold_frames:
            self.resets += 1
            self._restart()
        self._missing = 0
        self._last = frames[-1]
        self._clock_samples += len(frames)
        return self._step_through(frames.astype(self._dtype, copy=False))

    def _mend(self, frame: NDArray[np.float32]) -> list[Event]:
        """Put the values before it in the place of those that are none."""
        if self._last is None or self._missing >= self.hold_frames:
            self.dropped["skipped"] += 1
        else:
            self.dropped["held"] += 1
            self._last = np.where(np.isfinite(frame), frame, self._last)
        return self._miss(1)

    def _miss(self, count: int) -> list[Event]:
        """Hold the last frame in the place of `count`, or none if that is too long."""
        self._clock_samples += count
        if self._last is None:
            self._start_samples = self._clock_samples  # nothing has begun
            return []
        self._missing += count
        if self._missing > self.hold_frames:
            return []
        return self._step_through(np.repeat(self._last[None], count, axis=0).astype(self._dtype, copy=False))

"""Where a value of the step graph stands in time, compared with the whole sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

__all__ = ["Timing"]


@dataclass(frozen=True)
class Timing:
    """How one value's frames in the stream relate to its frames over the whole sequence.

    Frame `n` of the stream, counted from the reset, is frame `n - delay` of the whole sequence. A negative delay says
    that the sequence begins with so many zeros that the stream leaves out.
    """

    axis: int | None
    """Which axis is time; None for a prefix value: what the source gives for all frames so far."""
    frames: int
    """Frames that one step gives."""
    stride: Fraction | int
    """Input frames for each of its frames; below one where frames are put in between, as in UpSampling1D."""
    delay: int = 0
    lag: int = 0
    """By how many frames the last one that the *source* can give for all input so far stays behind.

    A valid convolution has `delay == lag`: nothing later could be asked for. Delay lines add to `delay` alone.
    """
    settled: int = 0
    """By how many frames the last one that no later input can change stays behind.

    It is above `lag` where the source puts zeros behind its last frame and looks ahead at them; the stream, which waits
    for the frames that are to come, never gives what these zeros made. Never below `lag`.
    """

    @property
    def extra_input_frames(self) -> int:
        """Input frames by which the stream is later than the source run on all frames so far."""
        return math.ceil((self.delay - self.lag) * self.stride)

    @property
    def latency_frames(self) -> int:
        """Input frames by which it is later than the frame it belongs to."""
        return self.extra_input_frames if self.axis is None else math.ceil(self.delay * self.stride)

    @property
    def warmup_steps(self) -> int:
        """Steps after a reset that give nothing valid."""
        return -(-self.delay // self.frames)

    @property
    def hold_steps(self) -> int:
        """Steps after a reset in which nothing valid comes in, so that a state must not take it in."""
        return max(self.delay, 0) // self.frames

    def on_axis(self, axis: int | None) -> Timing:
        """Return the same timing on another axis."""
        return replace(self, axis=axis)

    def without_first(self, frames: int) -> Timing:
        """Return the timing of a sequence without its first frames; with zeros before it, if negative."""
        return replace(self, delay=self.delay + frames, lag=self.lag + frames, settled=self.settled + frames)

    def without_last(self, frames: int) -> Timing:
        """Return the timing of a sequence without its last frames; with zeros behind it, if negative."""
        lag = self.lag + frames
        return replace(self, lag=lag, settled=max(self.settled, lag))

    def window(self, span: int, stride: int, before: int, after: int = 0) -> Timing:
        """Return the timing behind a window over `span` frames that moves by `stride`.

        The sequence has zeros around it: `before` and `after`. Window `n` begins at frame `n * stride - before`, and is
        complete when its last frame is there; the stream gives it then, so the delay is the least there can be.
        """

        def behind(frames: int) -> int:
            return -(-(frames + span - before) // stride) - 1

        return replace(
            self,
            frames=self.frames // stride,
            stride=self.stride * stride,
            delay=max(behind(self.delay), 0),
            lag=behind(self.lag - after),
            settled=behind(self.settled),
        ).without_last(0)

    def faster(self, factor: int) -> Timing:
        """Return the timing where every frame became `factor` frames."""
        return replace(
            self,
            frames=self.frames * factor,
            stride=Fraction(self.stride) / factor,
            delay=self.delay * factor,
            lag=self.lag * factor,
            settled=self.settled * factor,
        )

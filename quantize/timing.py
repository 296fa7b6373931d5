"""Where a value of the step graph stands in time, compared with the whole sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Timing"]


@dataclass(frozen=True)
class Timing:
    """How one value's frames in the stream relate to its frames over the whole sequence.

    Frame `n` of the stream, counted from the reset, is frame `n - delay` of the whole sequence.
    """

    axis: int | None
    """Which axis is time; None for a prefix value: what the source gives for all frames so far."""
    frames: int
    """Frames that one step gives."""
    stride: int
    """Input frames for each of its frames."""
    delay: int = 0
    lag: int = 0
    """By how many frames the last one that the *source* can give for all input so far stays behind.

    A valid convolution has `delay == lag`: nothing later could be asked for. Delay lines add to `delay` alone.
    """

    @property
    def extra_input_frames(self) -> int:
        """Input frames by which the stream is later than the source run on all frames so far."""
        return (self.delay - self.lag) * self.stride

    @property
    def warmup_steps(self) -> int:
        """Steps after a reset that give nothing valid."""
        return -(-self.delay // self.frames)

    def on_axis(self, axis: int | None) -> Timing:
        """Return the same timing on another axis."""
        return replace(self, axis=axis)

    def window(self, span: int, stride: int, padding: int) -> Timing:
        """Return the timing behind a window over `span` frames that moves by `stride`, after `padding` zeros.

        The delay must be a multiple of the stride (see `StepBuilder.align`).
        """
        return replace(
            self,
            frames=self.frames // stride,
            stride=self.stride * stride,
            delay=self.delay // stride + -(-(span - padding) // stride) - 1,
            lag=-(-(self.lag + span - padding) // stride) - 1,
        )

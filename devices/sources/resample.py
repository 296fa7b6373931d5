"""Another sample rate, chunk by chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import MissingDependencyError, UsageError

__all__ = ["Resampler"]


class Resampler:
    """Resamples a mono stream with soxr; equal rates pass through and need no package."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        if from_hz < 1 or to_hz < 1:
            raise UsageError(f"a sample rate must be above zero, found {min(from_hz, to_hz)} Hz")
        self._stream: Any = None
        if from_hz == to_hz:
            return
        try:
            import soxr
        except ImportError as error:
            raise MissingDependencyError(f"resampling from {from_hz} Hz to {to_hz} Hz", "soxr", "audio") from error
        self._stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take samples `(n,)`; return those that are ready, which lag behind by some 30 ms."""
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def finish(self) -> NDArray[np.float32]:
        """Return the samples that lagged behind, at the end of the stream."""
        rest = np.zeros(0, np.float32)
        return rest if self._stream is None else self._stream.resample_chunk(rest, last=True)

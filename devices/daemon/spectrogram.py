"""What a source gives, as rows of a picture: a byte for each band of sound, or for each feature of a frame."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgernn.frontend import FrontEnd, LogMel

__all__ = ["Spectrogram"]

HOP_S, WINDOW_S, LEAST_WINDOW = 0.02, 0.032, 64
BANDS = 40
QUIET, LOUD = -12.0, 6.0  # log-mel energies of the first and the last shade; full scale reaches about 8
MOST_FEATURES = 64


class Spectrogram:
    """Turns chunks into rows, for as long as somebody looks."""

    def __init__(self, rate_hz: float) -> None:
        self.row_s = HOP_S
        self._rate_hz = rate_hz
        self._front_end: FrontEnd | None = None
        self._low, self._high = np.inf, -np.inf  # of the features so far

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Take sound `(n,)` or frames `(n, features...)`; return rows `(rows, bands)`."""
        return self._sound(samples) if samples.ndim == 1 else self._frames(samples)

    def _sound(self, samples: NDArray[np.float32]) -> NDArray[np.uint8]:
        if self._front_end is None:
            self._front_end = FrontEnd(_params(round(self._rate_hz)))
            self.row_s = 1 / self._front_end.params.frame_rate_hz
        return _shades(self._front_end.push(samples), QUIET, LOUD)

    def _frames(self, frames: NDArray[np.float32]) -> NDArray[np.uint8]:
        self.row_s = 1 / self._rate_hz
        flat = frames.reshape(len(frames), math.prod(frames.shape[1:]))
        rows = np.nan_to_num(flat, posinf=0, neginf=0)  # sensors fail
        starts = np.linspace(0, rows.shape[1], min(rows.shape[1], MOST_FEATURES), endpoint=False).astype(int)
        rows = np.maximum.reduceat(rows, starts, axis=1)
        if rows.size:
            self._low, self._high = min(self._low, rows.min()), max(self._high, rows.max())
        return _shades(rows, self._low, self._high)


def _params(rate_hz: int) -> LogMel:
    window, hop = max(LEAST_WINDOW, round(WINDOW_S * rate_hz)), max(LEAST_WINDOW // 2, round(HOP_S * rate_hz))
    size = 1 << (window - 1).bit_length()
    high = min(7600.0, 0.475 * rate_hz)
    return LogMel(rate_hz, window, hop, size, min(BANDS, size // 8), min(60.0, high / 20), high)


def _shades(rows: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    shades: NDArray[np.uint8] = np.clip((rows - low) * (255 / ((high - low) or 1)), 0, 255).astype(np.uint8)
    return shades

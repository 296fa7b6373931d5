"""Sound to log-mel frames: one code for whole recordings and for streams.

A frame depends only on its own samples, and every operation on it has the same shape however many frames are
computed at once. So cutting a recording at any places gives the same frames, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ArtifactError, ShapeError, UsageError

__all__ = ["FrontEnd", "LogMel", "PlainSamples", "log_mel", "mel_filters", "taper"]

BLOCK_FRAMES = 32  # computed at once: enough to amortise calls, few enough to stay in the cache
LOUDEST = 100.0  # RMS of a chunk beyond which it cannot be sound with full scale at ±1


@dataclass(frozen=True)
class LogMel:
    """Parameters of the front end; raises `UsageError` where they make no sense.

    Frame `n` is the windowed samples from `n * hop_samples` on, as
    `(log(max(mel @ |FFT|², floor)) - mean) / std`, natural logarithm.

    >>> LogMel(rate_hz=8000, window_samples=200, hop_samples=80, fft_size=256, high_hz=3800.0).frame_rate_hz
    100.0
    """

    rate_hz: int = 16000
    """Samples per second."""
    window_samples: int = 400
    """Length of the Hann window."""
    hop_samples: int = 160
    """Samples from one frame to the next."""
    fft_size: int = 512
    """Points of the FFT; the window is padded with zeros up to it."""
    bands: int = 40
    """Mel bands, that is, features of a frame."""
    low_hz: float = 60.0
    """Where the lowest band begins."""
    high_hz: float = 7600.0
    """Where the highest band ends."""
    floor: float = 1e-6
    """Least power of a band; hides what is quieter, such as the rounding noise of 16-bit samples."""
    mean: tuple[float, ...] = ()
    """What is subtracted from each band; empty for nothing."""
    std: tuple[float, ...] = ()
    """What each band is divided by; empty for one."""

    def __post_init__(self) -> None:
        for wrong, complaint in self._complaints():
            if wrong:
                raise UsageError(f"the front end's {complaint}")

    def _complaints(self) -> list[tuple[bool, str]]:
        limits = (self.low_hz, self.high_hz, self.floor, *self.mean, *self.std)
        return [
            (self.rate_hz < 1, f"rate_hz must be at least 1, not {self.rate_hz}"),
            (self.bands < 1, f"bands must be at least 1, not {self.bands}"),
            (
                not 1 <= self.hop_samples <= self.window_samples <= self.fft_size,
                "sizes must be 1 <= hop_samples <= window_samples <= fft_size, "
                f"not {self.hop_samples}, {self.window_samples}, {self.fft_size}",
            ),
            (not all(map(math.isfinite, limits)), "numbers must be finite"),
            (
                not 0 <= self.low_hz < self.high_hz <= self.rate_hz / 2,
                "limits must be 0 <= low_hz < high_hz <= rate_hz / 2, "
                f"not {self.low_hz}, {self.high_hz}, {self.rate_hz / 2}",
            ),
            (self.floor <= 0, f"floor must be above zero, not {self.floor}"),
            (
                len(self.mean) not in (0, self.bands) or len(self.std) not in (0, self.bands),
                f"mean and std must have {self.bands} values, one a band, or none; "
                f"they have {len(self.mean)} and {len(self.std)}",
            ),
            (any(value <= 0 for value in self.std), "std must be above zero in every band"),
        ]

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second."""
        return self.rate_hz / self.hop_samples

    def frame_count(self, samples: int) -> int:
        """Return how many frames a recording of `samples` samples gives.

        >>> LogMel().frame_count(16000)
        98
        """
        return max(0, (samples - self.window_samples) // self.hop_samples + 1)

    def sample_count(self, frames: int) -> int:
        """Return how many samples it takes for `frames` frames.

        >>> LogMel().sample_count(98)
        15920
        """
        return (frames - 1) * self.hop_samples + self.window_samples if frames > 0 else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"kind": "log-mel", **asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LogMel:
        """Read what `to_dict` wrote; raise `ArtifactError` where it does not fit."""
        known = {field.name: field.default for field in fields(cls)}
        if not isinstance(values, Mapping) or values.get("kind") != "log-mel":
            raise ArtifactError('the front end in the manifest is not of the "kind" "log-mel", the only one known')
        unknown, missing = sorted(set(values) - set(known) - {"kind"}), sorted(set(known) - set(values))
        if unknown or missing:
            raise ArtifactError(
                f"the front end in the manifest has unknown keys ({', '.join(unknown) or 'none'}) "
                f"or lacks keys ({', '.join(missing) or 'none'})"
            )
        try:
            return cls(**{name: _like(default, values[name]) for name, default in known.items()})
        except (TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(f"the front end in the manifest is malformed: {error}") from error
        except UsageError as error:
            raise ArtifactError(f"in the manifest, {error}") from error


def _like(default: Any, value: Any) -> Any:
    if isinstance(default, tuple):
        return tuple(float(element) for element in value)
    if isinstance(default, int) and int(value) != value:
        raise ValueError(f"{value!r} is not a whole number")
    return type(default)(value)


class FrontEnd:
    """Log-mel frames of a stream, as its samples come in.

    Costs about 20 µs a frame on a desktop when samples come one hop at a time, and less in larger chunks. Its
    buffers are made once, for up to 32 frames at a time. Not for several threads at once.
    """

    def __init__(self, params: LogMel) -> None:
        self.params = params
        self.rows_hz = params.frame_rate_hz
        """Rows of what it gives in a second of sound."""
        bins = params.fft_size // 2 + 1
        self._taper = taper(params).astype(np.float32)
        self._mel = mel_filters(params)
        self._mean = np.array(params.mean or [0.0] * params.bands, np.float32)
        self._floor = np.array(params.floor, np.float32)
        self._scale = (1.0 / np.array(params.std or [1.0] * params.bands)).astype(np.float32)
        self._buffer = np.zeros(params.sample_count(BLOCK_FRAMES), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(self._buffer, params.window_samples)
        self._windows = windows[:: params.hop_samples]
        self._padded = np.zeros((BLOCK_FRAMES, params.fft_size), np.float32)
        self._squares = np.empty((BLOCK_FRAMES, 2 * bins), np.float32)
        self._power = np.empty((BLOCK_FRAMES, bins), np.float32)
        self._rfft = _rfft_of(params.fft_size)
        self._views: dict[int, tuple[NDArray[np.float32], ...]] = {}
        self.reset()

    def reset(self) -> None:
        """Forget all samples; the next one begins a new stream."""
        self._filled = 0
        self._taken = 0

    def push(self, samples: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Take samples `(n,)`, floating point, full scale at ±1; return the frames they complete.

        Returns a new array `(m, bands)`, float32; `m` is zero while a window is incomplete. Raises `ShapeError`
        for another shape, dtype or scale, for NaN and infinity; the stream is then as it was before the call.
        """
        _check(samples, self._taken)
        hop, capacity, start, row = self.params.hop_samples, len(self._buffer), 0, 0
        frames = np.empty((self.params.frame_count(self._filled + len(samples)), self.params.bands), np.float32)
        while start < len(samples):
            count = min(len(samples) - start, capacity - self._filled)
            self._buffer[self._filled : self._filled + count] = samples[start : start + count]
            self._filled += count
            start += count
            ready = self.params.frame_count(self._filled)
            if ready:
                self._compute(ready, frames[row : row + ready])
                row += ready
                kept = self._filled - ready * hop
                self._buffer[:kept] = self._buffer[ready * hop : self._filled]
                self._filled = kept
        self._taken += len(samples)
        return frames

    def _compute(self, count: int, frames: NDArray[np.float32]) -> None:
        """Compute the first `count` frames of the buffer into `frames`."""
        if count not in self._views:
            self._views[count] = self._views_of(count)
        windows, tapered, padded, squares, real, imaginary, power, product = self._views[count]
        np.multiply(windows, self._taper, out=tapered)
        spectrum = self._rfft(padded)
        # NumPy 1 computes the FFT in double precision.
        np.square(spectrum.view(spectrum.real.dtype), out=squares, casting="same_kind")
        np.add(real, imaginary, out=power)
        # One product of fixed shape for each frame: BLAS rounds differently when the shape differs.
        np.matmul(product, self._mel, out=frames[:, None])
        np.maximum(frames, self._floor, out=frames)
        np.log(frames, out=frames)
        np.subtract(frames, self._mean, out=frames)
        np.multiply(frames, self._scale, out=frames)

    def _views_of(self, count: int) -> tuple[NDArray[np.float32], ...]:
        """Return the buffers for so many frames; making these views anew would take as long as computing on them."""
        padded, squares, power = self._padded[:count], self._squares[:count], self._power[:count]
        tapered = padded[:, : self.params.window_samples]
        return self._windows[:count], tapered, padded, squares, squares[:, ::2], squares[:, 1::2], power, power[:, None]


def _rfft_of(size: int) -> Callable[[NDArray[np.float32]], NDArray[np.complexfloating[Any, Any]]]:
    """Return what `np.fft.rfft` ends in, where NumPy has it: the way there takes as long as the FFT."""
    name = "rfft_n_odd" if size % 2 else "rfft_n_even"
    kernel = getattr(getattr(np.fft, "_pocketfft_umath", None), name, None)
    return np.fft.rfft if kernel is None else partial(_into, kernel, size // 2 + 1)


def _into(kernel: Any, bins: int, rows: NDArray[np.float32]) -> NDArray[np.complexfloating[Any, Any]]:
    spectrum: NDArray[np.complex64] = kernel(rows, 1, out=np.empty((len(rows), bins), np.complex64))
    return spectrum  # of that 1, a float would choose another precision


class PlainSamples:
    """What stands in the place of the front end before a model that has it inside: samples go on as they are."""

    def __init__(self, params: LogMel) -> None:
        self.params = params
        self.rows_hz = float(params.rate_hz)
        self.reset()

    def reset(self) -> None:
        """Begin a new stream."""
        self._taken = 0

    def push(self, samples: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Take samples as `FrontEnd.push` does, and return them as float32, `(n,)`."""
        _check(samples, self._taken)
        self._taken += len(samples)
        return samples.astype(np.float32, copy=False)


def _check(samples: NDArray[np.floating[Any]], taken: int) -> None:
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype.char not in "fd":
        found = f"{getattr(samples, 'dtype', type(samples).__name__)} {getattr(samples, 'shape', '')}".strip()
        raise ShapeError(f"the front end takes samples as a float32 array of shape (n,), found {found}")
    if samples.dot(samples) <= LOUDEST**2 * len(samples):  # one pass; NaN fails it too
        return
    finite = np.isfinite(samples)
    if finite.all():
        raise ShapeError(
            f"the samples reach {np.abs(samples).max():g} after sample {taken} of the stream: expected "
            "full scale at ±1; divide 16-bit samples by 32768"
        )
    where = int(np.argmin(finite))
    raise ShapeError(
        f"the samples have {samples[where]} at sample {taken + where} of the stream: expected finite "
        "numbers, full scale at ±1"
    )


def log_mel(samples: NDArray[np.floating[Any]], params: LogMel) -> NDArray[np.float32]:
    """Return the frames of a whole recording `(n,)`: `(params.frame_count(n), bands)`, float32.

    >>> log_mel(np.zeros(16000, np.float32), LogMel()).shape
    (98, 40)
    """
    return FrontEnd(params).push(samples)


def taper(params: LogMel) -> NDArray[np.float64]:
    """Return the periodic Hann window `(window_samples,)`: zero at its first sample, even around its centre."""
    return np.hanning(params.window_samples + 1)[:-1]


def mel_filters(params: LogMel) -> NDArray[np.float32]:
    """Return triangles on the HTK mel scale, peak one: shape `(fft_size // 2 + 1, bands)`.

    The scale is 2595 log10(1 + f / 700), O'Shaughnessy 1987 as in the HTK Book (Young et al. 2006), section 5.6.
    """
    low, high = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (params.low_hz, params.high_hz))
    corners = 700.0 * (10.0 ** (np.linspace(low, high, params.bands + 2) / 2595.0) - 1.0)
    bins = np.arange(params.fft_size // 2 + 1)[:, None] * (params.rate_hz / params.fft_size)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    filters = np.maximum(0.0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    empty = np.flatnonzero(filters.sum(axis=0) == 0)
    if len(empty):
        raise UsageError(
            f"the front end's band {empty[0]} ({left[empty[0]]:.0f} to {right[empty[0]]:.0f} Hz) is narrower than "
            "the FFT resolves: take fewer bands or a larger fft_size"
        )
    return np.ascontiguousarray(filters, dtype=np.float32)

"""Random changes to sound and frames. Every function takes its random generator: the same one, the same result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["add_noise", "change_speed", "coloured_noise", "cut", "mask", "place", "rms", "tilt"]

Sound = NDArray[np.float32]
Random = np.random.Generator


def rms(sound: Sound) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(sound)))) if len(sound) else 0.0


def place(stream: Sound, sound: Sound, start: int) -> None:
    """Add `sound` to `stream` in place, from sample `start` on; what lies outside is dropped.

    >>> stream = np.zeros(4, np.float32)
    >>> place(stream, np.array([1, 2, 3], np.float32), -1)
    >>> stream
    array([2., 3., 0., 0.], dtype=float32)
    """
    first, end = max(0, start), min(len(stream), start + len(sound))
    if first < end:
        stream[first:end] += sound[first - start : end - start]


def cut(recordings: Sequence[Sound], samples: int, random: Random) -> Sound:
    """Return `samples` samples of one of the recordings, from a random place; a short recording is repeated."""
    recording = recordings[int(random.integers(len(recordings)))]
    start = int(random.integers(max(1, len(recording) - samples + 1)))
    return np.resize(recording[start : start + samples], samples)


def change_speed(sound: Sound, factor: float) -> Sound:
    """Play `sound` at `factor` times its speed, by linear interpolation; shape `(n / factor,)`."""
    places = np.arange(int(len(sound) / factor)) * factor
    played: Sound = np.interp(places, np.arange(len(sound)), sound).astype(np.float32)
    return played


def add_noise(stream: Sound, noise: Sound, snr_db: float, signal_rms: float) -> None:
    """Add `noise` to `stream` in place so that `signal_rms` is `snr_db` above the noise."""
    level = rms(noise)
    if level > 0.0:
        stream += noise * np.float32(signal_rms / level * 10.0 ** (-snr_db / 20.0))


def coloured_noise(samples: int, random: Random) -> Sound:
    """Return noise of RMS 0.1 with a random slope (white to brown), one random hump, and slow swells."""
    spectrum = np.fft.rfft(random.standard_normal(samples))
    frequency = np.linspace(0.0, 1.0, len(spectrum))
    centre, width = random.uniform(0.0, 0.8), random.uniform(0.02, 0.3)
    shape = (frequency + 0.01) ** -random.uniform(0.0, 1.0)
    hump = 1.0 + random.uniform(0.0, 8.0) * np.exp(-0.5 * ((frequency - centre) / width) ** 2)
    noise = np.fft.irfft(spectrum * shape * hump, samples)
    knots = random.uniform(0.3, 1.0, samples // 8000 + 2)
    noise *= np.interp(np.arange(samples), np.arange(len(knots)) * 8000, knots)
    level = np.sqrt(np.mean(np.square(noise)))
    scaled: Sound = (noise * (0.1 / level)).astype(np.float32)
    return scaled


def tilt(frames: NDArray[np.float32], size: NDArray[np.float32], random: Random) -> None:
    """Add a smooth random curve over the bands to each stream of `frames` `(streams, frames, bands)`, in place.

    `size` `(bands,)` is how much of the curve each band takes.
    """
    streams, _, bands = frames.shape
    knots = random.uniform(-1.0, 1.0, (streams, 5))
    places = np.linspace(0.0, 4.0, bands)
    left = np.minimum(places.astype(int), 3)
    curve = knots[:, left] * (left + 1 - places) + knots[:, left + 1] * (places - left)
    frames += (curve * size)[:, None].astype(np.float32)


def mask(frames: NDArray[np.float32], masks: int, widest: int, axis: int, random: Random) -> None:
    """Set random spans along `axis` (1 frames, 2 bands) of each stream to zero, the mean, in place.

    SpecAugment (Park et al. 2019, arXiv:1904.08779) without its time warp; `frames` is `(streams, frames, bands)`.
    """
    for stream in frames:
        for _ in range(masks):
            width = int(random.integers(0, widest + 1))
            start = int(random.integers(0, frames.shape[axis] - width + 1))
            span = slice(start, start + width)
            stream[(span, slice(None)) if axis == 1 else (slice(None), span)] = 0.0

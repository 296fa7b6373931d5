"""Streams to calibrate quantization on: several words and noise, so that states go where they go on a device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgernn.frontend import FrontEnd, LogMel
from edgernn.train.augment import add_noise, coloured_noise, cut, place, rms
from edgernn.train.datasets import Sounds

__all__ = ["calibration_streams"]

Sound = NDArray[np.float32]
STREAM_FRAMES = 320


def calibration_streams(sounds: Sounds, params: LogMel, count: int, seed: int) -> NDArray[np.float32]:
    """Return `count` streams of training clips joined with noise: `(count, 320, bands)`, float32.

    Each has up to three words; every eighth has none, only noise.
    """
    random = np.random.default_rng((seed, 0xCA1B))
    noises = sounds.noises or (coloured_noise(10 * params.rate_hz, random),)
    streams = []
    for number in range(count):
        words = 0 if number % 8 == 7 else int(random.integers(1, 4))
        stream = _stream(sounds, noises, params, words, random)
        streams.append(FrontEnd(params).push(stream))
    return np.stack(streams)


def _stream(
    sounds: Sounds, noises: tuple[Sound, ...], params: LogMel, words: int, random: np.random.Generator
) -> Sound:
    stream = np.zeros(params.sample_count(STREAM_FRAMES), np.float32)
    start = int(random.uniform(0.0, 0.5) * params.rate_hz)
    for _ in range(words):
        sound = sounds.sounds[int(random.integers(len(sounds.sounds)))]
        place(stream, sound, start)
        start += len(sound) + int(random.uniform(0.0, 0.4) * params.rate_hz)
    level = rms(stream) or 10.0 ** random.uniform(-3.5, -1.0)
    add_noise(stream, cut(noises, len(stream), random), random.uniform(5.0, 35.0) if words else 0.0, level)
    return stream * np.float32(10.0 ** random.uniform(-0.5, 0.3))

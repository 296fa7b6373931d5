"""Training streams: each has a clip in its last second, and what may come before it on a live stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgernn.clips import SILENCE, UNKNOWN, labels_of
from edgernn.frontend import FrontEnd, LogMel
from edgernn.train.augment import add_noise, change_speed, coloured_noise, cut, mask, place, rms, tilt
from edgernn.train.datasets import Sounds
from edgernn.train.recipe import Recipe

__all__ = ["Examples", "clip_frames", "frames_of", "measure"]

Sound = NDArray[np.float32]
Random = np.random.Generator

UNKNOWN_WEIGHT = 2.0  # "unknown" holds many words: it is drawn twice as often as a word
SYNTHETIC_NOISES = 24
SYNTHETIC_SHARE = 0.4  # of the streams with noise; the recordings of noise are few
BEFORE_SHARE = 0.7  # of the streams with context have another clip in it, the others only noise


def clip_frames(params: LogMel) -> int:
    """Return the frames of a one-second clip, rounded down to a multiple of four (the stride of a CRNN).

    >>> clip_frames(LogMel())
    96
    """
    return params.frame_count(params.rate_hz) // 4 * 4


def frames_of(sound: Sound, front_end: FrontEnd, frames: int) -> NDArray[np.float32]:
    """Return the first `frames` frames of `sound`, padded with zeros at its end: `(frames, bands)`."""
    samples = front_end.params.sample_count(frames)
    front_end.reset()
    return front_end.push(np.pad(sound[:samples], (0, max(0, samples - len(sound)))))


class Examples:
    """Makes batches of training streams; the same seed, epoch and number give the same batch."""

    def __init__(self, sounds: Sounds, recipe: Recipe, params: LogMel) -> None:
        self.sounds, self.recipe, self.params = sounds, recipe, params
        self.labels = labels_of(recipe.words)
        self._front_end = FrontEnd(params)
        self._by_class = [np.flatnonzero(sounds.classes == index) for index in range(len(self.labels))]
        self.spoken = np.array([index for index in range(len(self.labels) - 1) if len(self._by_class[index])], int)
        """The classes that there are clips of; without clips of other words, "unknown" is not among them."""
        self._unknown_by_word = _by_word([sounds.clips[i].word for i in self._by_class[self.labels.index(UNKNOWN)]])
        random = np.random.default_rng((recipe.seed, 0xC0105))
        synthetic = [coloured_noise(10 * params.rate_hz, random) for _ in range(SYNTHETIC_NOISES)]
        self._noises = (tuple(sounds.noises) or tuple(synthetic), tuple(synthetic))
        weights = np.array([UNKNOWN_WEIGHT if label == UNKNOWN else 1.0 for label in self.labels])
        weights *= np.isin(np.arange(len(self.labels)), [*self.spoken, self.labels.index(SILENCE)])
        self._weights = weights / weights.sum()

    def batch(self, epoch: int, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return frames `(batch, frames, bands)` and targets `(batch, classes)`, both float32.

        The batches with context are twice as long as the others.
        """
        random = np.random.default_rng((self.recipe.seed, epoch, number))
        context = bool(random.random() < self.recipe.augment.context)
        classes = random.choice(len(self.labels), self.recipe.fit.batch, p=self._weights)
        frames = np.stack([self.stream(int(index), context, random) for index in classes])
        augment = self.recipe.augment
        size = np.full(self.params.bands, augment.tilt_db * np.log(10.0) / 10.0)
        tilt(frames, size / np.array(self.params.std or 1.0), random)
        mask(frames, augment.masks, augment.mask_frames, 1, random)
        mask(frames, augment.masks, augment.mask_bands, 2, random)
        return frames, np.eye(len(self.labels), dtype=np.float32)[classes]

    def stream(self, index: int, context: bool, random: Random) -> NDArray[np.float32]:
        """Return the frames of one stream whose last second is of class `index`: `(frames, bands)`."""
        frames = clip_frames(self.params) * (2 if context else 1)
        sound = self.sound(index, self.params.sample_count(frames), context, random)
        self._front_end.reset()
        return self._front_end.push(sound)

    def sound(self, index: int, samples: int, context: bool, random: Random) -> Sound:
        """Return the samples of such a stream, `(samples,)`."""
        augment = self.recipe.augment
        clip_samples = self.params.sample_count(clip_frames(self.params))
        moved_ms = random.uniform(-1.0, 1.0) * augment.shift_ms
        if context:  # a live stream goes on after the word; the model should still know it then
            moved_ms = -random.uniform(-augment.shift_ms, augment.lag_ms)
        start = samples - clip_samples + int(moved_ms * self.params.rate_hz / 1000.0)
        silent = self.labels[index] == SILENCE
        target = np.zeros(clip_samples, np.float32) if silent else self._clip(index, random)
        stream = np.zeros(samples, np.float32)
        place(stream, target, start)
        if context and random.random() < BEFORE_SHARE:
            self._place_before(stream, min(start, samples - clip_samples), random)
        self._add_noise(stream, rms(target), silent, random)
        return stream * np.float32(10.0 ** (random.uniform(*augment.gain_db) / 20.0))

    def _clip(self, index: int, random: Random) -> Sound:
        """Return a clip of class `index`, faster or slower."""
        members = self._by_class[index]
        if self.labels[index] == UNKNOWN and random.random() < 0.5:  # rare words as often as frequent ones
            members = members[self._unknown_by_word[int(random.integers(len(self._unknown_by_word)))]]
        sound = self.sounds.sounds[int(members[int(random.integers(len(members)))])]
        return change_speed(sound, 1.0 + random.uniform(-1.0, 1.0) * self.recipe.augment.speed)

    def _place_before(self, stream: Sound, end: int, random: Random) -> None:
        """Add any clip of any class, so that it is over by `end`, or up to 0.4 s earlier."""
        sound = self.sounds.sounds[int(random.integers(len(self.sounds.sounds)))]
        place(stream, sound, end - len(sound) - int(random.uniform(0.0, 0.4) * self.params.rate_hz))

    def _add_noise(self, stream: Sound, signal_rms: float, silent: bool, random: Random) -> None:
        augment = self.recipe.augment
        if random.random() >= augment.noise:
            return
        noise = cut(self._noises[int(random.random() < SYNTHETIC_SHARE)], len(stream), random)
        if silent:  # there is no signal to compare with: from near nothing to loud
            signal_rms, snr_db = 10.0 ** random.uniform(-4.5, -1.0), 0.0
        else:
            snr_db = random.uniform(*augment.snr_db)
        add_noise(stream, noise, snr_db, signal_rms)


def _by_word(words: Sequence[str]) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(np.array(words) == word) for word in sorted(set(words))]


def measure(examples: Examples, streams: int = 600) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each band over training streams, for normalisation."""
    random = np.random.default_rng((examples.recipe.seed, 0x57A75))
    classes = examples.spoken[random.integers(0, len(examples.spoken), streams)]
    frames = np.concatenate([examples.stream(int(index), False, random) for index in classes])
    mean, std = frames.mean(axis=0, dtype=np.float64), frames.std(axis=0, dtype=np.float64)
    return tuple(map(float, np.round(mean, 4))), tuple(map(float, np.round(np.maximum(std, 0.1), 4)))

"""From a folder of clips to arrays: the split by speaker, the sounds, the silence."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgernn.clips import Clip, class_of, labels_of, list_clips, list_noises, read_audio
from edgernn.errors import DataError
from edgernn.train.augment import coloured_noise, rms
from edgernn.train.recipe import Recipe

__all__ = ["Sounds", "dev_silence", "is_dev", "load_sounds", "split_clips", "split_noise"]

Sound = NDArray[np.float32]
NOISE_DEV_SHARE = 0.2


@dataclass(frozen=True)
class Sounds:
    """Clips and noise of one side of the split."""

    clips: tuple[Clip, ...]
    sounds: tuple[Sound, ...]
    """Samples of each clip, at most one second."""
    classes: NDArray[np.int64]
    """Class of each clip, shape `(clips,)`."""
    noises: tuple[Sound, ...]
    """Recordings, or parts of them, without speech."""


def is_dev(speaker: str, share: float) -> bool:
    """Say whether a speaker belongs to the dev set: by a hash of the name, the same on every machine.

    The idea is Speech Commands' `which_set` (Warden 2018, arXiv:1804.03209).
    """
    digest = hashlib.sha256(speaker.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2.0**64


def split_clips(clips: Iterable[Clip], dev_share: float) -> tuple[list[Clip], list[Clip]]:
    """Return train and dev clips. No speaker is in both: raises `DataError` where an index puts one there.

    A clip whose set the index gives is where it says; others go by `is_dev`.
    """
    train: list[Clip] = []
    dev: list[Clip] = []
    for clip in clips:
        if clip.set not in ("", "train", "dev"):
            continue  # a test set, to be left alone
        goes_to_dev = clip.set == "dev" if clip.set else is_dev(clip.speaker, dev_share)
        (dev if goes_to_dev else train).append(clip)
    shared = sorted({clip.speaker for clip in train} & {clip.speaker for clip in dev})
    if shared:
        raise DataError(f"{len(shared)} speakers are in train and in dev, such as {shared[0]}: mend the index")
    return train, dev


def split_noise(noise: Sound) -> tuple[Sound, Sound]:
    """Cut a noise recording in two: what comes first is for training, the last fifth for dev."""
    border = int(len(noise) * (1.0 - NOISE_DEV_SHARE))
    return noise[:border], noise[border:]


def load_sounds(folder: Path, recipe: Recipe) -> tuple[Sounds, Sounds]:
    """Read the clips and the noise of `folder`; return the train and the dev side."""
    train, dev = split_clips(list_clips(folder), recipe.dev_share)
    _check_words(folder, train, dev, recipe)
    halves = [split_noise(read_audio(path, recipe.rate_hz)) for path in list_noises(folder)]
    return (
        _load(train, recipe, tuple(first for first, _ in halves)),
        _load(dev, recipe, tuple(last for _, last in halves)),
    )


def _check_words(folder: Path, train: Sequence[Clip], dev: Sequence[Clip], recipe: Recipe) -> None:
    labels_of(recipe.words)  # refuses a list that makes no sense
    clips = {word: [clip for clip in (*train, *dev) if clip.word == word] for word in recipe.words}
    absent = [word for word in recipe.words if not clips[word]]
    if absent:
        there = ", ".join(sorted({clip.word for clip in (*train, *dev)})) or "none at all"
        raise DataError(f"{folder} has no train or dev clips of {', '.join(absent)}; it has: {there}")
    for name, side in (("train", train), ("dev", dev)):
        missing = [word for word in recipe.words if word not in {clip.word for clip in side}]
        if missing:
            found = ", ".join(f"{word} ({_count(clips[word])})" for word in missing)
            raise DataError(
                f"{folder} has no {name} clips of {found}: each word needs clips of 2 speakers or more, at least 1 in "
                f"train and 1 in dev; by dev_share = {recipe.dev_share:g} that takes some {_enough(recipe.dev_share)} "
                "speakers: record more, or decide by an index.csv with the columns file,word,speaker,set"
            )


def _count(clips: Sequence[Clip]) -> str:
    speakers = len({clip.speaker for clip in clips})
    return f"{len(clips)} clip{'s' * (len(clips) != 1)} of {speakers} speaker{'s' * (speakers != 1)}"


def _enough(share: float) -> int:
    """Return of how many speakers one is on the rarer side, in 95 of 100 cases: the rule of three."""
    return math.ceil(3.0 / max(0.01, min(share, 1.0 - share)))


def _load(clips: Sequence[Clip], recipe: Recipe, noises: tuple[Sound, ...]) -> Sounds:
    labels = labels_of(recipe.words)
    classes = np.array([labels.index(class_of(clip.word, recipe.words)) for clip in clips], np.int64)
    sounds = tuple(read_audio(clip.path, recipe.rate_hz)[: recipe.rate_hz] for clip in clips)
    return Sounds(tuple(clips), sounds, classes, noises)


def dev_silence(noises: Sequence[Sound], count: int, rate_hz: int, seed: int) -> list[Sound]:
    """Return `count` seconds of silence for the dev set, the same for the same arguments.

    Two thirds are cut at even distances from the dev parts of the noise recordings, every second one ten times
    quieter; the rest is digital silence once, and computed noise at falling levels.
    """
    random = np.random.default_rng(seed)
    recorded = [noise for noise in noises if len(noise) >= rate_hz]
    cuts = count * 2 // 3 if recorded else 0
    silence = []
    for number in range(cuts):
        noise, turn = recorded[number % len(recorded)], number // len(recorded)
        start = int((len(noise) - rate_hz) * turn / max(1, -(-cuts // len(recorded)) - 1))
        silence.append(noise[start : start + rate_hz] * np.float32(0.1 if turn % 2 else 1.0))
    if cuts < count:
        silence.append(np.zeros(rate_hz, np.float32))
    while len(silence) < count:
        level = 0.03 * 10.0 ** (-random.uniform(0.0, 2.0))
        noise = coloured_noise(rate_hz, random)
        silence.append(noise * np.float32(level / rms(noise)))
    return silence[:count]

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgernn.frontend import FrontEnd, LogMel, log_mel
from edgernn.train.augment import rms
from edgernn.train.calibration import calibration_streams
from edgernn.train.datasets import load_sounds
from edgernn.train.examples import Examples, clip_frames, frames_of, measure
from edgernn.train.recipe import AugmentRecipe, FitRecipe, Recipe

RECIPE = Recipe(("low", "high"), fit=FitRecipe(batch=12))
STILL = AugmentRecipe(context=0.0, shift_ms=0.0, speed=0.0, gain_db=(0.0, 0.0), noise=0.0, tilt_db=0.0, masks=0)


@pytest.fixture
def examples(tones: Path) -> Examples:
    return Examples(load_sounds(tones, RECIPE)[0], RECIPE, LogMel())


def test_the_same_epoch_and_number_give_the_same_batch(examples: Examples, tones: Path) -> None:
    again = Examples(load_sounds(tones, RECIPE)[0], RECIPE, LogMel())
    examples.batch(1, 0)
    for number in range(3):
        (first, targets), (second, other) = examples.batch(2, number), again.batch(2, number)
        assert first.tobytes() == second.tobytes()
        assert targets.tolist() == other.tolist()
    assert not np.array_equal(examples.batch(2, 0)[1], examples.batch(3, 0)[1])


def test_batches_are_a_second_long_or_two(examples: Examples) -> None:
    batches = [examples.batch(1, number) for number in range(12)]
    assert {frames.shape for frames, _ in batches} == {(12, 96, 40), (12, 192, 40)}
    assert {frames.dtype for frames, _ in batches} == {np.dtype(np.float32)}
    targets = np.concatenate([targets for _, targets in batches])
    assert set(targets.argmax(axis=1).tolist()) == {0, 1, 2, 3}
    np.testing.assert_allclose(targets.sum(axis=1), 1.0, atol=1e-6)


def test_without_augmentation_a_stream_is_its_clip(tones: Path) -> None:
    sounds = load_sounds(tones, RECIPE)[0]
    examples = Examples(sounds, replace(RECIPE, augment=STILL), LogMel())
    frames = examples.stream(0, False, np.random.default_rng(0))
    whole = [np.pad(sounds.sounds[i], (0, 7000)) for i in np.flatnonzero(sounds.classes == 0)]
    assert any(np.allclose(frames, log_mel(clip, LogMel())[:96], atol=1e-4) for clip in whole)


def test_after_context_the_word_is_in_the_last_second(tones: Path) -> None:
    recipe = replace(RECIPE, augment=replace(STILL, shift_ms=50.0, lag_ms=100.0))
    examples = Examples(load_sounds(tones, recipe)[0], recipe, LogMel())
    random = np.random.default_rng(0)
    samples = LogMel().sample_count(192)
    quiet = 0
    for _ in range(20):
        sound = examples.sound(1, samples, True, random)
        spectrum = np.abs(np.fft.rfft(sound[-16000:]))
        assert 1400 < spectrum.argmax() < 1800  # "high" beeps there
        quiet += rms(sound[: samples - 19000]) < 0.01
    assert 0 < quiet < 20  # something comes before it, most times


def test_silence_has_no_word_in_its_last_part(tones: Path) -> None:
    recipe = replace(RECIPE, augment=STILL)
    examples = Examples(load_sounds(tones, recipe)[0], recipe, LogMel())
    random = np.random.default_rng(0)
    sounds = [examples.sound(3, LogMel().sample_count(192), True, random) for _ in range(20)]
    assert max(rms(sound[-15600:]) for sound in sounds) < 0.01
    assert max(rms(sound) for sound in sounds) > 0.01


def test_measured_normalisation_makes_bands_alike(examples: Examples) -> None:
    mean, std = measure(examples, 64)
    normalised = replace(LogMel(), mean=mean, std=std)
    again = Examples(examples.sounds, RECIPE, normalised)
    random = np.random.default_rng(5)
    frames = np.concatenate([again.stream(number % 3, False, random) for number in range(60)])
    assert np.abs(frames.mean(axis=0)).max() < 0.5
    assert 0.5 < frames.std(axis=0).min() <= frames.std(axis=0).max() < 2.0


def test_what_has_no_clips_is_not_drawn(only_words: Path) -> None:
    sounds = load_sounds(only_words, RECIPE)[0]
    low = np.flatnonzero(sounds.classes == 0)
    clips, samples = zip(*((sounds.clips[i], sounds.sounds[i]) for i in low), strict=True)
    alone = replace(sounds, clips=clips, sounds=samples, classes=sounds.classes[low])
    for given, classes in ((sounds, {0, 1, 3}), (alone, {0, 3})):
        examples = Examples(given, RECIPE, LogMel())
        mean, _ = measure(examples, 8)
        assert np.isfinite(mean).all()
        drawn = [int(label) for number in range(4) for label in examples.batch(1, number)[1].argmax(axis=1)]
        assert set(drawn) == classes


def test_clips_are_padded_and_cut_to_a_multiple_of_four_frames() -> None:
    params = LogMel()
    assert clip_frames(params) == 96
    for samples in (1, 8000, 20000):
        sound = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
        frames = frames_of(sound, FrontEnd(params), 96)
        assert np.array_equal(frames, log_mel(np.pad(sound, (0, 16000))[:16000], params)[:96])


def test_calibration_streams_hold_words_and_pauses(tones: Path) -> None:
    sounds = load_sounds(tones, RECIPE)[0]
    streams = calibration_streams(sounds, LogMel(), 16, seed=1)
    assert streams.shape == (16, 320, 40)
    assert streams.dtype == np.float32
    assert np.isfinite(streams).all()
    assert np.array_equal(streams, calibration_streams(sounds, LogMel(), 16, seed=1))
    assert streams.max(axis=2).std(axis=1).min() > 0.01

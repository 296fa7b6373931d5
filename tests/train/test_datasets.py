from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.clips import Clip
from edgernn.errors import DataError, UsageError
from edgernn.train.augment import rms
from edgernn.train.datasets import dev_silence, is_dev, load_sounds, split_clips, split_noise
from edgernn.train.recipe import Recipe

SPEAKERS = st.text("abcö_ 0123456789", min_size=1, max_size=8)


@given(speakers=st.lists(SPEAKERS, max_size=40), share=st.floats(0, 1))
def test_no_speaker_is_on_both_sides(speakers: list[str], share: float) -> None:
    clips = [Clip(Path(str(number)), "word", speaker) for number, speaker in enumerate(speakers)]
    train, dev = split_clips(clips, share)
    assert not {clip.speaker for clip in train} & {clip.speaker for clip in dev}
    assert sorted(train + dev, key=lambda clip: int(clip.path.name)) == clips


def test_the_share_of_dev_speakers_is_about_what_was_asked() -> None:
    names = [f"speaker {number}" for number in range(5000)]
    assert sum(is_dev(name, 0.12) for name in names) / len(names) == pytest.approx(0.12, abs=0.015)
    on_every_machine = ["speaker 2", "speaker 8", "speaker 9", "speaker 15", "speaker 17"]
    assert [name for name in names[:30] if is_dev(name, 0.12)] == on_every_machine


def test_an_index_decides_and_other_sets_are_left_alone() -> None:
    clips = [Clip(Path(name), "w", name, name[:-1]) for name in ("train1", "dev1", "test1", "dev2")]
    train, dev = split_clips(clips, 1.0)
    assert [clip.speaker for clip in train] == ["train1"]
    assert [clip.speaker for clip in dev] == ["dev1", "dev2"]


def test_an_index_that_puts_a_speaker_on_both_sides_is_refused() -> None:
    clips = [Clip(Path("a"), "w", "ann", "train"), Clip(Path("b"), "w", "ann", "dev")]
    with pytest.raises(DataError, match="1 speakers are in train and in dev, such as ann"):
        split_clips(clips, 0.1)


def test_sounds_are_loaded_with_their_classes(tones: Path) -> None:
    train, dev = load_sounds(tones, Recipe(("low", "high")))
    assert (len(train.clips), len(dev.clips)) == (12, 6)
    assert [train.classes[i] for i, clip in enumerate(train.clips) if clip.speaker == "ann"] == [1, 0, 2]
    assert len(train.noises[0]) == 4 * len(dev.noises[0])


def test_a_word_without_clips_is_refused(tones: Path) -> None:
    with pytest.raises(DataError, match="no train or dev clips of up; it has: high, low, other"):
        load_sounds(tones, Recipe(("low", "up")))
    with pytest.raises(UsageError, match="is empty"):
        load_sounds(tones, replace(Recipe(), words=()))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["speaker 1"], "1 clip of 1 speaker"),
        (["speaker 1", "speaker 3_nohash_0", "speaker 3_nohash_1"], "3 clips of 2"),
    ],
)
def test_too_few_speakers_are_counted_and_what_to_do_is_said(tmp_path: Path, names: list[str], found: str) -> None:
    (tmp_path / "low").mkdir()
    for name in names:
        (tmp_path / "low" / f"{name}.wav").touch()
    with pytest.raises(DataError) as caught:
        load_sounds(tmp_path, Recipe(("low",)))
    told = str(caught.value)
    assert f"has no dev clips of low ({found}" in told
    assert "needs clips of 2 speakers or more, at least 1 in train and 1 in dev" in told
    assert "takes some 25 speakers: record more, or decide by an index.csv" in told
    with pytest.raises(DataError, match="has no train clips of low"):
        load_sounds(tmp_path, Recipe(("low",), dev_share=1.0))


def test_noise_of_training_and_dev_does_not_overlap() -> None:
    noise = np.arange(100, dtype=np.float32)
    first, last = split_noise(noise)
    assert np.array_equal(np.concatenate([first, last]), noise)
    assert len(last) == 20


def test_dev_silence_is_the_same_each_time_and_has_every_kind() -> None:
    noises = [np.random.default_rng(number).normal(0, 0.05, 48000).astype(np.float32) for number in range(2)]
    silence = dev_silence(noises, 12, 16000, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(silence, dev_silence(noises, 12, 16000, seed=1), strict=True))
    assert [len(sound) for sound in silence] == [16000] * 12
    recorded = [any(sound.astype(np.float32)[0] in noise for noise in noises) for sound in silence[::2]]
    assert sum(rms(sound) == 0 for sound in silence) == 1
    assert sum(recorded) >= 2
    assert len(dev_silence([], 3, 16000, seed=1)) == 3

import builtins
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgernn.clips import class_of, labels_of, list_clips, list_noises, read_audio
from edgernn.errors import AudioError, DataError, MissingDependencyError, UsageError

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)).astype(np.float32)


def write_wav(path: Path, pcm: bytes, width: int = 2, channels: int = 1, rate_hz: int = 16000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate_hz, 0, "NONE", ""))
        file.writeframes(pcm)
    return path


def tone_wav(path: Path, **settings: int) -> Path:
    return write_wav(path, (TONE * 32767).astype("<i2").tobytes(), **settings)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make soundfile and soxr look as if they were not installed."""
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name in ("soundfile", "soxr"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_pcm_of_any_width_is_read_without_any_package(tmp_path: Path, width: int, bare: None) -> None:
    levels = np.rint(TONE.astype(np.float64) * (2 ** (8 * width - 1) - 1)).astype("<i8")
    raw = (levels + 128).astype(np.uint8)[:, None] if width == 1 else levels.view(np.uint8).reshape(-1, 8)[:, :width]
    samples = read_audio(write_wav(tmp_path / "a.wav", raw.tobytes(), width), 16000)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, TONE, atol=1.1 / 2 ** (8 * width - 1) + 1e-7)


def test_channels_are_averaged(tmp_path: Path) -> None:
    stereo = np.stack([TONE, np.zeros_like(TONE)], axis=1)
    path = write_wav(tmp_path / "a.wav", (stereo * 32767).astype("<i2").tobytes(), channels=2)
    np.testing.assert_allclose(read_audio(path, 16000), TONE / 2, atol=1e-4)


@pytest.mark.parametrize("name", ["a.flac", "float.wav"])
def test_other_formats_are_read_with_soundfile(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    soundfile.write(path, TONE, 16000, subtype="FLOAT" if name.startswith("float") else "PCM_16")
    np.testing.assert_allclose(read_audio(path, 16000), TONE, atol=1e-4)


def test_another_rate_is_resampled(tmp_path: Path) -> None:
    samples = read_audio(tone_wav(tmp_path / "a.wav"), 8000)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4000) / 8000)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples[200:-200], expected[200:-200], atol=1e-3)


def test_a_missing_package_is_named_with_the_extra_to_install(tmp_path: Path, bare: None) -> None:
    soundfile.write(tmp_path / "a.flac", TONE, 16000)
    with pytest.raises(MissingDependencyError, match=r"needs the package soundfile.*edgernn\[audio\]"):
        read_audio(tmp_path / "a.flac", 16000)
    with pytest.raises(MissingDependencyError, match="from 16000 Hz to 8000 Hz needs the package soxr"):
        read_audio(tone_wav(tmp_path / "a.wav"), 8000)


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return files that cannot be read, and what should be said of each."""
    soundfile.write(folder / "whole.flac", np.tile(TONE, 4), 16000)
    flac, wav = (folder / "whole.flac").read_bytes(), tone_wav(folder / "whole.wav").read_bytes()
    rate = wav.index(b"fmt ") + 12
    contents = {
        "text.wav": (b"this is no recording", "cannot be read as audio"),
        "text.flac": (b"this is no recording", "cannot be read as audio"),
        "nothing.wav": (b"", "cannot be read as audio"),
        "short.wav": (wav[:5000], "is truncated: its header says 8000 samples, 2478 are there"),
        "short.flac": (flac[: len(flac) // 2], "truncated"),
        "empty.wav": (wav[:40] + struct.pack("<I", 0), "holds no samples"),
        "zero.wav": (wav[:rate] + struct.pack("<I", 0) + wav[rate + 4 :], "a sample rate of 0 Hz"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    return {name: (folder / name, message) for name, (_, message) in contents.items()}


@pytest.mark.parametrize(
    "name", ["text.wav", "text.flac", "nothing.wav", "short.wav", "short.flac", "empty.wav", "zero.wav"]
)
def test_a_broken_recording_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path, message = broken_files(tmp_path)[name]
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path, 16000)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_a_number_in_a_recording_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.where(np.arange(8000) == 77, np.nan, TONE), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or infinity at sample 77"):
        read_audio(tmp_path / "a.wav", 16000)


def test_a_missing_file_and_a_rate_of_zero_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_audio(tmp_path / "a.wav", 16000)
    with pytest.raises(AudioError, match="is not a file"):
        read_audio(tmp_path, 16000)
    with pytest.raises(UsageError, match="above zero"):
        read_audio(tone_wav(tmp_path / "a.wav"), 0)


def test_a_wav_from_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    content = bytearray(tone_wav(tmp_path / "a.wav").read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", 0xFFFFFFFF)
    (tmp_path / "a.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "a.wav", 16000)) == len(TONE)


def test_folders_give_clips_with_speakers_and_no_background(tmp_path: Path) -> None:
    for name in ("up/ab12_nohash_0.wav", "up/ab12_nohash_1.wav", "down/me.wav", "_background_noise_/hum.wav"):
        tone_wav(tmp_path / name)
    (tmp_path / "up" / "notes.txt").write_text("not a clip")
    clips = [(clip.word, clip.speaker, clip.set) for clip in list_clips(tmp_path)]
    assert clips == [("down", "me", ""), ("up", "ab12", ""), ("up", "ab12", "")]
    assert [path.name for path in list_noises(tmp_path)] == ["hum.wav"]


def test_an_index_says_who_speaks_and_which_set(tmp_path: Path) -> None:
    tone_wav(tmp_path / "x" / "1.wav")
    tone_wav(tmp_path / "x" / "left_out.wav")
    (tmp_path / "index.csv").write_text("file,word,speaker,set\nx/1.wav,up,ann,dev\n")
    (clip,) = list_clips(tmp_path)
    assert (clip.path, clip.word, clip.speaker, clip.set) == (tmp_path / "x" / "1.wav", "up", "ann", "dev")


def test_an_index_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    tone_wav(tmp_path / "up" / "1.wav")
    (tmp_path / "index.csv").write_text("file,rate,kind\nhum.flac,16000,noise\n")
    with pytest.raises(DataError, match="has the columns file,rate,kind, expected file,word"):
        list_clips(tmp_path)
    (tmp_path / "index.csv").write_text("file,word\nup/1.wav,up\nup/2.wav,up\n")
    with pytest.raises(DataError, match=r"lists 1 files that are not there, the first is .*2\.wav"):
        list_clips(tmp_path)


def test_a_folder_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no clips"):
        list_clips(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        list_clips(tone_wav(tmp_path / "a.wav"))
    with pytest.raises(UsageError, match="does not exist"):
        list_clips(tmp_path / "nowhere")


def test_classes_are_the_words_then_unknown_and_silence() -> None:
    words = ["up", "down"]
    assert labels_of(words) == ("up", "down", "unknown", "silence")
    found = [class_of(word, words) for word in ("down", "cat", "silence", "_background_noise_")]
    assert found == ["down", "unknown", "silence", "silence"]


@pytest.mark.parametrize(
    ("words", "message"), [([], "is empty"), (["up", "up"], "repeats up"), (["silence"], "has silence")]
)
def test_a_list_of_words_without_sense_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        labels_of(words)

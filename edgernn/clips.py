"""Recordings: reading them, and finding the clips of a labelled folder.

Only NumPy is imported here. PCM WAV is read with the standard library; every other format needs soundfile, and
another sample rate needs soxr: both are imported when the need arises.
"""

from __future__ import annotations

import csv
import os
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import AudioError, DataError, MissingDependencyError, UsageError
from edgernn.files import check_there

__all__ = [
    "BACKGROUND",
    "SILENCE",
    "SUFFIXES",
    "UNKNOWN",
    "Clip",
    "class_of",
    "labels_of",
    "list_clips",
    "list_noises",
    "read_audio",
]

BACKGROUND = "_background_noise_"
"""Folder of long recordings without speech, as Speech Commands has it (Warden 2018, arXiv:1804.03209)."""
UNKNOWN = "unknown"
SILENCE = "silence"
SUFFIXES = (".wav", ".flac", ".ogg")


def read_audio(path: str | os.PathLike[str], rate_hz: int) -> NDArray[np.float32]:
    """Read a recording as mono at `rate_hz`: shape `(n,)`, float32, full scale at ±1.

    Channels are averaged. Raises `AudioError` when the file is not audio, truncated, empty, or says a sample rate of
    zero; `UsageError` when it is not there, `MissingDependencyError` when its format or its rate needs a package that
    is not installed.
    """
    if rate_hz <= 0:
        raise UsageError(f"the sample rate must be above zero, not {rate_hz} Hz")
    source = Path(path)
    check_there(source, "a recording")
    if not source.is_file():
        raise AudioError(f"{source} cannot be read: it is not a file")
    found = _read_wav(source) or _read_with_soundfile(source)
    samples, found_hz = found
    if found_hz <= 0:
        raise AudioError(f"{source} says a sample rate of {found_hz} Hz: its header is broken, record it again")
    if not len(samples):
        raise AudioError(f"{source} holds no samples: record it again")
    if not np.isfinite(samples).all():
        raise AudioError(f"{source} has NaN or infinity at sample {int(np.argmin(np.isfinite(samples).all(1)))}")
    mono = np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32))
    return mono if found_hz == rate_hz else _resample(mono, found_hz, rate_hz)


def _read_wav(path: Path) -> tuple[NDArray[np.float32], int] | None:
    """Return samples `(n, channels)` and the rate of a PCM WAV, None if it is anything else."""
    try:
        with path.open("rb") as file, wave.open(file) as wav:
            channels, width, rate_hz, expected, *_ = wav.getparams()
            data = wav.readframes(expected)
    except (wave.Error, EOFError):
        return None
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror or error}") from error
    if width > 4:
        raise AudioError(f"{path} says {8 * width} bits a sample: its header is broken, record it again")
    samples = _from_pcm(data[: len(data) // (channels * width) * channels * width], width).reshape(-1, channels)
    streamed = expected * channels * width >= 0x7FFF0000  # a recorder that wrote to a pipe cannot know the length
    if len(samples) < expected and not streamed:
        raise AudioError(
            f"{path} is truncated: its header says {expected} samples, {len(samples)} are there; copy it again"
        )
    return samples, rate_hz


def _from_pcm(data: bytes, width: int) -> NDArray[np.float32]:
    """Scale PCM of `width` bytes a sample to ±1; shape `(samples * channels,)`."""
    if width == 1:  # the only unsigned one
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128.0) / 128.0
    if width == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return padded.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    return np.frombuffer(data, f"<i{width}").astype(np.float32) / np.float32(2 ** (8 * width - 1))


def _read_with_soundfile(path: Path) -> tuple[NDArray[np.float32], int]:
    """Return samples `(n, channels)` and the rate of anything libsndfile reads."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not
        raise MissingDependencyError(f"{path}: reading anything but PCM WAV", "soundfile", "audio") from error
    try:
        with soundfile.SoundFile(path) as file:
            expected, rate_hz = file.frames, int(file.samplerate)
            samples = file.read(dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:  # LibsndfileError is a RuntimeError
        reason = str(error).rpartition(": ")[2].rstrip(".")
        raise AudioError(f"{path} cannot be read as audio: {reason}; is it truncated, or no recording?") from error
    if len(samples) < expected:
        raise AudioError(
            f"{path} is truncated: its header says {expected} samples, {len(samples)} are there; copy it again"
        )
    return samples, rate_hz


def _resample(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    try:
        import soxr
    except ImportError as error:
        raise MissingDependencyError(f"resampling from {from_hz} Hz to {to_hz} Hz", "soxr", "audio") from error
    resampled: NDArray[np.float32] = soxr.resample(samples, from_hz, to_hz).astype(np.float32, copy=False)
    return resampled


@dataclass(frozen=True)
class Clip:
    """One recording of one word."""

    path: Path
    word: str
    speaker: str
    """Who says it, as far as the file name or the index tells; a file of its own speaker otherwise."""
    set: str = ""
    """"train" or "dev" where an index says so, else empty."""


def list_clips(folder: str | os.PathLike[str]) -> list[Clip]:
    """Return the clips of a labelled folder, sorted by path.

    With an `index.csv` (columns file and word; speaker and set if known), the clips are its rows. Without, every
    `<word>/<name>.wav|flac|ogg` is a clip; `<speaker>_nohash_<n>` tells the speaker, another name is a speaker of
    its own. Folders that begin with `_` or `.` hold no words. Raises `DataError` if there is nothing to find in it,
    `UsageError` if it does not exist.
    """
    root = Path(folder)
    check_there(root, "a folder with a folder of recordings for each word")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected one with a folder of recordings for each word")
    index = root / "index.csv"
    clips = _from_index(root, index) if index.is_file() else _from_folders(root)
    if not clips:
        raise DataError(f"{root} has no clips: expected {root.name}/<word>/<name>.wav or .flac")
    return sorted(clips, key=lambda clip: clip.path)


def _from_folders(root: Path) -> list[Clip]:
    return [
        Clip(path, path.parent.name, _speaker(path))
        for path in root.glob("*/*")
        if path.suffix.lower() in SUFFIXES and path.parent.name[0] not in "._"
    ]


def _speaker(path: Path) -> str:
    return path.stem.partition("_nohash_")[0]


def _from_index(root: Path, index: Path) -> list[Clip]:
    with index.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns, rows = reader.fieldnames or [], list(reader)
    if not {"file", "word"} <= set(columns):
        raise DataError(
            f"{index} has the columns {','.join(columns) or 'none'}, expected file,word and if known speaker,set: "
            "it is the index of something else; replace it, or remove it to go by folder names"
        )
    clips = [_from_row(root, row) for row in rows]
    missing = [clip.path for clip in clips if not clip.path.is_file()]
    if missing:
        raise DataError(f"{index} lists {len(missing)} files that are not there, the first is {missing[0]}")
    return clips


def _from_row(root: Path, row: dict[str, Any]) -> Clip:
    path = root / row["file"]
    return Clip(path, row["word"], row.get("speaker") or _speaker(path), row.get("set") or "")


def list_noises(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the recordings in the folder's `_background_noise_`, sorted; none if there is no such folder."""
    return sorted(path for path in (Path(folder) / BACKGROUND).glob("*") if path.suffix.lower() in SUFFIXES)


def labels_of(words: Sequence[str]) -> tuple[str, ...]:
    """Return the classes: the words, then "unknown" and "silence".

    >>> labels_of(["up", "down"])
    ('up', 'down', 'unknown', 'silence')
    """
    repeated = sorted({word for word in words if list(words).count(word) > 1})
    taken = sorted({UNKNOWN, SILENCE} & set(words))
    if not words or repeated or taken:
        found = f"repeats {', '.join(repeated)}" if repeated else f"has {', '.join(taken)}" if taken else "is empty"
        raise UsageError(f"the list of words {found}: name each word once; unknown and silence are added by themselves")
    return (*words, UNKNOWN, SILENCE)


def class_of(word: str, words: Sequence[str]) -> str:
    """Return the class of a clip of `word`: the word itself if it is one of `words`, else "unknown".

    >>> class_of("up", ["up", "down"]), class_of("cat", ["up", "down"])
    ('up', 'unknown')
    """
    if word in (SILENCE, BACKGROUND):
        return SILENCE
    return word if word in words else UNKNOWN

import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

WORDS = {"low": 300.0, "high": 1500.0, "other": 4000.0}
SPEAKERS = ("ann", "bob", "cem", "dan", "eva", "fay")


def write_wav(path: Path, sound: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of ten seconds: a "word" is a beep, and its "speaker" is how high the beep is."""
    folder = tmp_path_factory.mktemp("tones")
    random = np.random.default_rng(0)
    time = np.arange(15800) / 16000
    for word, hertz in WORDS.items():
        for number, speaker in enumerate(SPEAKERS):
            beep = 0.3 * np.sin(2 * np.pi * hertz * (1 + 0.03 * number) * time) * np.hanning(15800) ** 0.25
            write_wav(folder / word / f"{speaker}_nohash_0.wav", beep + random.normal(0, 0.001, 15800))
    write_wav(folder / "_background_noise_" / "hiss.wav", random.normal(0, 0.01, 6 * 16000))
    rows = [f"{w}/{s}_nohash_0.wav,{w},{s},{'dev' if s in 'eva fay' else 'train'}" for w in WORDS for s in SPEAKERS]
    (folder / "index.csv").write_text("\n".join(["file,word,speaker,set", *rows]) + "\n")
    return folder


@pytest.fixture(scope="session")
def only_words(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without noise and without a word beside "low" and "high"."""
    folder = tmp_path_factory.mktemp("words") / "data"
    shutil.copytree(tones, folder, ignore=shutil.ignore_patterns("other", "_background_noise_"))
    rows = (tones / "index.csv").read_text().splitlines(keepends=True)
    (folder / "index.csv").write_text("".join(row for row in rows if "other" not in row))
    return folder


TINY = """
words = ["low", "high"]
[model]
conv_filters = [12, 12]
conv_blocks = 0
units = [16]
dropout = 0.0
[augment]
shift_ms = 20.0
gain_db = [-3.0, 3.0]
context = 0.0
speed = 0.0
noise = 0.5
snr_db = [20.0, 30.0]
tilt_db = 1.0
masks = 0
[fit]
epochs = 4
batch = 32
examples = 320
learning_rate = 0.01
warmup_epochs = 0.5
average = 0.5
"""


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that is done in seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return path

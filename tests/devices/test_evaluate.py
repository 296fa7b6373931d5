from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from edgernn.artifact import Artifact
from edgernn.clips import list_clips
from edgernn.devices.evaluate import evaluate, main
from edgernn.errors import DataError


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Return a folder with loud clips said to be "sound", quiet ones said to be silence, and one that is wrong."""
    rng = np.random.default_rng(0)
    for word, name, level in [
        ("sound", "a", 3000),
        ("sound", "b", 3000),
        ("sound", "mislabelled", 0),
        ("silence", "c", 0),
    ]:
        path = tmp_path / "data" / word / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            samples = rng.normal(0, level, 9000 if name == "c" else 20000)
            file.writeframes(samples.astype("<i2").tobytes())
    return tmp_path / "data"


def test_answers_are_counted(energy_artifact: Artifact, clips: Path) -> None:
    result = evaluate(energy_artifact, list_clips(clips))
    assert result.confusion.tolist() == [[2, 1], [0, 1]]
    assert (result.accuracy, result.clips) == (0.75, 4)
    assert result.recall("sound") == pytest.approx(2 / 3)
    assert "accuracy 75.00% of 4 clips" in str(result)


def test_json_and_sets(energy_artifact: Artifact, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["file,word,speaker,set", "sound/a.wav,sound,a,dev", "silence/c.wav,silence,c,train"]
    (clips / "index.csv").write_text("\n".join(rows))
    arguments = [str(energy_artifact.path), "--data", str(clips), "--json", "--set"]
    assert main([*arguments, "dev"], "edgernn evaluate") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clips"] == 1
    assert found["recall"] == {"sound": 1.0, "silence": None}
    with pytest.raises(DataError, match="no clip of the set 'test'"):
        main([*arguments, "test"], "edgernn evaluate")


def test_word_without_a_label_is_named(energy_artifact: Artifact, clips: Path) -> None:
    (clips / "sound").rename(clips / "cat")
    with pytest.raises(DataError, match="says 'cat', and the artifact has no label for that"):
        evaluate(energy_artifact, list_clips(clips))

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from edgernn.cli import main
from edgernn.clips import read_audio
from edgernn.frontend import FrontEnd, LogMel
from edgernn.train.recipe import read_recipe

RUN_EDGERNN = "import sys; from edgernn.cli import main; sys.exit(main())"


def train(data: Path, run: Path, *options: str | Path) -> int:
    return main(["train", "keyword-spotting", "--data", str(data), "-o", str(run), *map(str, options)])


@pytest.fixture(scope="module")
def run(tones: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run on tones."""
    folder = tmp_path_factory.mktemp("run") / "beeps"
    assert train(tones, folder, "--recipe", recipe_file, "--epochs", "6", "--seed", "3") == 0
    return folder


@pytest.mark.slow
def test_it_tells_beeps_apart(run: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    assert facts["task"] == "keyword-spotting"
    assert facts["name"] == "beeps"
    assert facts["labels"] == ["low", "high", "unknown", "silence"]
    assert facts["frame_rate_hz"] == 100.0
    assert facts["accuracy"]["dev"] >= 0.8
    assert set(facts["accuracy"]["per_class"]) == set(facts["labels"])
    assert (facts["data"]["train_clips"], facts["data"]["dev_clips"]) == (12, 6)
    assert facts["decoder"]["ignore"] == ["unknown", "silence"]
    assert 0 < facts["parameters"] < 6000


@pytest.mark.slow
def test_the_run_folder_is_complete(run: Path) -> None:
    expected = {
        "calibration.npz", "checkpoints", "confusion.png", "confusion.txt", "dev.npz", "history.csv", "history.png",
        "model.keras", "recipe.toml", "run.json",
    }  # fmt: skip
    assert {path.name for path in run.iterdir()} == expected
    recipe = read_recipe(run / "recipe.toml")
    assert (recipe.words, recipe.seed, recipe.fit.epochs) == (("low", "high"), 3, 6)


@pytest.mark.slow
def test_the_model_hears_a_recording_as_the_dev_set_says(run: Path, tones: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    model = keras.models.load_model(run / "model.keras", compile=False)
    with np.load(run / "dev.npz") as dev:
        frames, classes = dev["x"], dev["y"]
    found = model.predict_on_batch(frames).argmax(axis=1)
    assert (found == classes).mean() == pytest.approx(facts["accuracy"]["dev"])
    assert frames.dtype == np.float32
    assert frames.shape[1] % 4 == 0
    sound = np.pad(read_audio(tones / "high" / "eva_nohash_0.wav", 16000), (0, 7000))
    heard = FrontEnd(LogMel.from_dict(facts["front_end"])).push(sound)[: frames.shape[1]]
    assert any(np.array_equal(heard, stream) for stream in frames[classes == 1])


@pytest.mark.slow
def test_the_saved_model_carries_no_optimizer(run: Path) -> None:
    with zipfile.ZipFile(run / "model.keras") as file:
        weights = file.read("model.weights.h5")
    assert b"gru" in weights
    assert b"optimizer" not in weights


def history(run: Path) -> list[list[float]]:
    rows = (run / "history.csv").read_text().splitlines()[1:]
    return [[float(value) for value in row.split(",")] for row in rows]


@pytest.mark.slow
def test_a_training_that_was_killed_ends_like_one_that_was_not(
    run: Path, tones: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "keyword-spotting", "--data", str(tones), "-o", str(tmp_path / "killed")]
    arguments += ["--recipe", str(recipe_file), "--epochs", "6", "--seed", "3"]
    command = [sys.executable, "-c", RUN_EDGERNN, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch   2"):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.keras").exists()
    assert train(tones, tmp_path / "killed", "--resume") == 0
    resumed = capsys.readouterr().out
    assert "epoch   3" in resumed
    assert "epoch   1" not in resumed
    np.testing.assert_allclose(history(tmp_path / "killed"), history(run), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ([], 2, "such as --words up,down"),
        (["--words", "low,low"], 2, "repeats low"),
        (["--words", "low,up"], 1, "has no train or dev clips of up; it has: high, low, other"),
        (["--words", "low", "--model", "big"], 2, "there is no model 'big'; the models are: crnn, gru, lstm"),
        (["--words", "low", "--epochs", "0"], 2, "fit.epochs must be at least 1"),
        (["--words", "low", "--recipe", "none.toml"], 2, "none.toml does not exist"),
        (["--words", "low", "--resume"], 2, "there is no training to resume"),
    ],
)
def test_misuse_is_told_in_one_line(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], status: int, message: str
) -> None:
    assert train(tones, tmp_path / "run", *options) == status
    told = capsys.readouterr().err
    assert message in told
    assert told.startswith("edgernn train: error: ")
    assert told.count("\n") == 1


def test_a_folder_in_use_is_not_written_to(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    assert train(tones, tmp_path, "--words", "low") == 2
    assert "exists already: choose another folder" in capsys.readouterr().err
    (tmp_path / "recipe.toml").write_text('words = ["low"]')
    assert train(tones, tmp_path, "--words", "low") == 2
    assert "go on with --resume, or choose" in capsys.readouterr().err
    assert train(tones, tmp_path, "--resume", "--seed", "9") == 2
    assert "was begun with another recipe" in capsys.readouterr().err


def test_more_epochs_than_a_run_was_begun_for_are_refused(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text('words = ["low"]\n[fit]\nepochs = 6')
    assert train(tones, tmp_path, "--resume", "--epochs", "9") == 2
    told = capsys.readouterr().err
    assert "was begun for 6 epochs" in told
    assert "resumed towards 9; go on with --resume alone, or train anew in another folder" in told
    assert told.count("\n") == 1


@pytest.mark.slow
def test_words_alone_are_trained_on_without_other_words_or_noise(
    only_words: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(only_words, tmp_path / "run", "--recipe", recipe_file, "--epochs", "1") == 0
    told = capsys.readouterr().out
    assert "train clips of low, high alone: without other words the class unknown cannot be learned" in told
    assert f"add some as {only_words}/<other word>/<name>.wav" in told
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(facts["accuracy"]["per_class"]) == {"low", "high", "silence"}


def test_a_broken_clip_is_named(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for set_, speaker in (("train", "ann"), ("dev", "eva")):
        source = (tones / "low" / f"{speaker}_nohash_0.wav").read_bytes()
        (tmp_path / "data" / "low").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "low" / f"{set_}.wav").write_bytes(source if set_ == "dev" else source[:3000])
    index = "file,word,speaker,set\nlow/train.wav,low,ann,train\nlow/dev.wav,low,eva,dev\n"
    (tmp_path / "data" / "index.csv").write_text(index)
    assert train(tmp_path / "data", tmp_path / "run", "--words", "low") == 1
    assert "train.wav is truncated" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [["train"], ["train", "sing"], ["train", "keyword-spotting"]])
def test_a_command_line_that_cannot_be_parsed_ends_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: edgernn train" in capsys.readouterr().err


def test_help_does_not_wait_for_a_framework() -> None:
    code = f"import sys; sys.modules['keras'] = None\n{RUN_EDGERNN}"
    shown = subprocess.run(
        [sys.executable, "-c", code, "train", "keyword-spotting", "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert "--words A,B" in shown.stdout


def test_without_keras_the_extra_to_install_is_named(tones: Path, tmp_path: Path) -> None:
    code = f"import sys; sys.modules['keras'] = None\n{RUN_EDGERNN}"
    arguments = ["train", "keyword-spotting", "--data", str(tones), "--words", "low", "-o", str(tmp_path / "run")]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "training needs the package keras" in ended.stderr

"""edgernn convert in a process of its own: what it says, and what is left where it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from keras import layers

from edgernn.artifact import Artifact
from tests.quantize.command import classifier, one_line
from tests.quantize.networks import chain

EDGERNN = [sys.executable, "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small model's file."""
    path = tmp_path_factory.mktemp("model") / "words.keras"
    classifier().save(path)
    return path


@pytest.mark.slow
def test_both_formats_by_default_and_a_quiet_process(model: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [*EDGERNN, "convert", str(model), "-o", str(tmp_path / "words"), "-q"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "step.tflite" in result.stdout
    assert "step.onnx" in result.stdout
    artifact = Artifact.open(tmp_path / "words")
    assert set(artifact.programs["step"]) == set(artifact.parity) == {"tflite", "onnx"}
    assert [path.name for path in tmp_path.iterdir()] == ["words"]


@pytest.mark.slow
def test_a_failing_process_says_one_line(tmp_path: Path) -> None:
    chain(layers.Bidirectional(layers.LSTM(3), name="both_ways")).save(tmp_path / "model.keras")
    result = subprocess.run(
        [*EDGERNN, "convert", str(tmp_path / "model.keras"), "-o", str(tmp_path / "out"), "-q"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "both_ways" in one_line(result.stderr)
    assert result.stdout == ""


def start(model: Path, output: Path, stage: str) -> subprocess.Popen[str]:
    """Start a conversion whose temporary files go beside `output`'s folder; return when it is at `stage`."""
    scratch = output.parent.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [*EDGERNN, "convert", str(model), "-o", str(output), "--to", "onnx,tflite"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if stage in line:
            return process
    raise AssertionError(f"it ended before '{stage}' with {process.wait()}")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reading the layers", "writing onnx", "writing tflite", "stepping step.tflite"])
def test_a_killed_conversion_leaves_no_half_artifact(stage: str, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "artifacts" / "words"
    output.parent.mkdir()
    process = start(model, output, stage)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(output.parent.iterdir()) == [], "neither it nor anything hidden"


@pytest.mark.slow
def test_an_interrupted_conversion_cleans_up(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "artifacts" / "words"
    output.parent.mkdir()
    process = start(model, output, "writing tflite")
    time.sleep(1)  # into the child
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert one_line(errors) == "edgernn convert: interrupted"
    assert list(output.parent.iterdir()) == []
    assert not [path for path in (tmp_path / "scratch").iterdir() if path.name.startswith("edgernn-")]

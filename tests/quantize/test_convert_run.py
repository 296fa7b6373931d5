"""edgernn convert of a training run: its own data, its accuracy, and what may be wrong with its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgernn.artifact import Artifact
from tests.quantize.command import classifier, convert, one_line
from tests.quantize.networks import FEATURES

LABELS = ["yes", "no", "silence"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run whose model is right on three of four clips of dev."""
    folder = tmp_path / "run"
    folder.mkdir()
    trained = classifier()
    trained.save(folder / "model.keras")
    random = np.random.default_rng(10)
    clips = random.normal(size=(40, 30, FEATURES)).astype(np.float32)
    said = np.asarray(trained(clips))[:, -1].argmax(-1)
    classes = np.where(np.arange(40) % 4 == 0, (said + 1) % 3, said)
    np.savez(folder / "dev.npz", x=clips, y=classes)
    np.savez(folder / "calibration.npz", x=clips[:8].reshape(2, 120, FEATURES))
    facts = {"name": "my-words", "task": "keyword-spotting", "labels": LABELS, "frame_rate_hz": 50.0,
             "accuracy": {"dev": 0.75}, "parameters": 123, "secret": "not for the artifact"}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def test_a_run_is_proven_on_its_own_data_and_compared_on_dev(run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert convert(run, "-o", tmp_path / "words", "--to", "onnx", "--quantize", "int8") == 0
    printed = capsys.readouterr().out
    assert "source acc." in printed
    assert "artifact acc." in printed
    assert "75.00%" in printed
    artifact = Artifact.open(tmp_path / "words")
    report = artifact.parity["onnx"]
    assert report["input"] == "calibration.npz"
    assert (report["accuracy"]["source"], report["accuracy"]["clips"]) == (0.75, 40)
    assert abs(report["accuracy"]["artifact"] - 0.75) <= 0.05
    assert (artifact.name, artifact.labels, artifact.frame_rate_hz) == ("my-words", tuple(LABELS), 50.0)
    assert artifact.training == {"task": "keyword-spotting", "accuracy": {"dev": 0.75}, "parameters": 123}
    assert "secret" not in (tmp_path / "words" / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("run.json", b"{", "not valid JSON"),
        ("run.json", b"[]", "expected a JSON object"),
        ("dev.npz", b"PK\x03\x04nothing", "cannot be read as NumPy arrays"),
        ("calibration.npz", b"nothing", "cannot be read as NumPy arrays"),
    ],
)
def test_a_broken_run_is_said_so(
    run: Path, tmp_path: Path, file: str, content: bytes, reason: str, capsys: Capture
) -> None:
    (run / file).write_bytes(content)
    assert convert(run, "-o", tmp_path / "words", "--to", "onnx", "-q") == 1
    message = one_line(capsys.readouterr().err)
    assert reason in message
    assert file in message
    assert not (tmp_path / "words").exists()


DEV_SHAPES: list[dict[str, tuple[int, ...]]] = [
    {"x": (3, 9, 6)},
    {"x": (3, 9, 6), "y": (2,)},
    {"x": (3, 6), "y": (3,)},
    {"x": (0, 9, 6), "y": (0,)},
]


@pytest.mark.parametrize("shapes", DEV_SHAPES)
def test_a_dev_set_of_another_shape_is_said_so(
    run: Path, tmp_path: Path, shapes: dict[str, tuple[int, ...]], capsys: Capture
) -> None:
    arrays: dict[str, Any] = {name: np.zeros(shape) for name, shape in shapes.items()}
    np.savez(run / "dev.npz", **arrays)
    assert convert(run, "-o", tmp_path / "words", "--to", "onnx", "-q") == 1
    assert "expected arrays x (clips, frames, features) and y (clips,)" in one_line(capsys.readouterr().err)

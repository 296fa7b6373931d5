"""The demo's network: converted in every scheme, it hears the words of the demo's recording in every runtime."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgernn.artifact import Artifact
from edgernn.cli import main
from edgernn.quantize.schemes import SCHEMES

pytestmark = pytest.mark.slow

PRETRAINED = Path(__file__).parents[2] / "train" / "pretrained"
DEMO = PRETRAINED / "samples" / "demo.wav"
LATE_S = 0.6  # a word is decided while it is said, or shortly after


def truth() -> list[tuple[str, float, float]]:
    words = json.loads(DEMO.with_suffix(".json").read_text())["words"]
    known = json.loads((PRETRAINED / "keyword-crnn" / "run.json").read_text())["labels"]
    return [(word["word"], word["start_s"], word["end_s"]) for word in words if word["word"] in known]


def heard(artifact: Path, runtime: str, capsys: pytest.CaptureFixture[str]) -> list[tuple[str, float]]:
    capsys.readouterr()
    assert main(["run", str(artifact), str(DEMO), "--fast", "--runtime", runtime, "--sink", "json:"]) == 0
    events = map(json.loads, capsys.readouterr().out.splitlines())
    return [(event["word"], event["end_s"]) for event in events]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_words_are_heard(scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / scheme
    assert main(["convert", str(PRETRAINED / "keyword-crnn"), "-o", str(output), "--quantize", scheme]) == 0
    assert Artifact.open(output).conversion["scheme"] == scheme
    for kind in SCHEMES[scheme].formats:
        runtime = {"tflite": "litert", "onnx": "onnxruntime"}[kind]
        found = heard(output, runtime, capsys)
        right = [
            word for word, start, end in truth() for name, at in found if name == word and start <= at <= end + LATE_S
        ]
        assert len(right) >= len(truth()) - 1, (runtime, found)
        assert len(found) - len(right) <= 1, (runtime, found)

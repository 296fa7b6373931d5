from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

from edgernn.artifact import Artifact
from edgernn.devices.inspect import describe
from edgernn.devices.inspect import main as inspect
from edgernn.spec import QuantParams, StreamSpec

# What a board without any runtime, and without what the desktop needs, lacks.
ABSENT = ("ai_edge_litert", "tflite_runtime", "onnxruntime", "onnx", "tensorflow", "keras", "soundfile", "soxr")


def test_text_has_everything(energy_artifact: Artifact) -> None:
    text = describe(energy_artifact)
    for part in (
        "energy, an EdgeRNN artifact",
        "labels: sound, silence",
        "step.tflite",
        "1 frame a step (10 ms), latency 0 frames (0 ms), 1 states of 160 bytes",
        "1 × 1 × 40",
        "starts at 0",
        "rate_hz         16000",
        "refractory_ms",
        "1.00e-07",
        "100.0%",
        "onnx: Add × 1, Mul × 3",
    ):
        assert part in text
    assert text.count("program step") == 1  # both files have one spec


def test_formats_that_differ_are_shown_apart(energy_artifact: Artifact) -> None:
    model = energy_artifact.model("tflite")
    (state,) = model.spec.states
    state = dataclasses.replace(state, dtype="int8", quant=QuantParams(0.25, -3), initial=1.5, hold_steps=2)
    other = dataclasses.replace(model, spec=dataclasses.replace(model.spec, states=(state,)))
    programs = {"step": {"tflite": other, "onnx": energy_artifact.model("onnx")}}
    text = describe(dataclasses.replace(energy_artifact, programs=programs))
    assert "program step as tflite" in text
    assert "program step as onnx" in text
    assert "0.25, -3" in text
    assert "starts at 1.5, held for 2 steps" in text


def test_bare_artifact_and_odd_reports_are_fine(energy_artifact: Artifact) -> None:
    bare = dataclasses.replace(
        energy_artifact, front_end=None, decoder=None, labels=(), frame_rate_hz=None, conversion={}, parity={"onnx": {}}
    )
    text = describe(bare)
    assert "front end" not in text
    assert "parity" not in text


def test_json_has_everything(energy_artifact: Artifact, capsys: object) -> None:
    code = "import sys; from edgernn.cli import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(energy_artifact.path), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(result.stdout)
    model = found["programs"]["step"]["tflite"]
    assert StreamSpec.from_dict(model["stream"]) == energy_artifact.model("tflite").spec
    assert len(model["sha256"]) == 64
    assert found["digests"] == "checked"
    assert found["parity"]["onnx"]["steps"] == 500


def test_numpy_is_enough(energy_artifact: Artifact) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        "from edgernn.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    subprocess.run([sys.executable, "-c", code, "inspect", str(energy_artifact.path)], check=True, capture_output=True)
    assert inspect([str(energy_artifact.path)], "edgernn inspect") == 0

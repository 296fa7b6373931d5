"""A manifest that someone edited, or that a disk garbled, never ends in a traceback."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgernn.artifact import MANIFEST, Artifact, write_artifact
from edgernn.cli import main
from edgernn.decode.keyword import KeywordSpec
from edgernn.errors import ArtifactError
from edgernn.frontend import LogMel
from edgernn.spec import QuantParams, StateSpec, StreamSpec, TensorSpec

STREAM = StreamSpec(
    (TensorSpec("x", (1, 2, 4), "int8", QuantParams(0.5, -3)),),
    (TensorSpec("y", (1, 3)), TensorSpec("z", (1, 2, 3))),
    (StateSpec("h", "h_in", "h_out", (1, 4), initial=0.5, hold_steps=1),),
    frames_per_step=2,
    output_delays=(0, 1),
    output_kinds=("prefix", "frames"),
)
REPORT = {
    "outputs": [{"name": "y", "max_abs": 1e-7, "snr_db": None, "argmax_agreement": 1.0}],
    "steps": 9,
    "us_per_step": 4.5,
    "accuracy": {"source": 0.9, "artifact": 0.9},
}
WHOLE: dict[str, Any] = {
    "name": "tiny",
    "programs": {"step": {"onnx": {"file": "step.onnx", "scheme": "int8", "stream": STREAM.to_dict()}}},
    "labels": ["yes", "no", "unknown"],
    "frame_rate_hz": 100.0,
    "front_end": LogMel().to_dict(),
    "decoder": KeywordSpec().to_dict(),
    "training": {"accuracy": {"dev": 0.9}, "seconds": 3.5},
    "conversion": {"operators": {"onnx": {"Add": 1}}, "versions": {"onnx": "1"}},
    "parity": {"onnx": REPORT},
}
REPLACEMENTS = [None, 5, "zz", [], {}, -1, math.nan, True, 1e999, [None], {"a": None}]

Path_ = tuple[str | int, ...]


def paths_of(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yield the path of every value at every level."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key)
        yield from paths_of(inner, (*path, key))


def replaced(manifest: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.fixture
def manifest_path(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "tiny", WHOLE, {"step.onnx": b"model"}).path / MANIFEST


def test_no_value_of_a_manifest_ends_in_a_traceback(manifest_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = json.loads(manifest_path.read_text())
    paths = [path for path in paths_of(whole) if path[:2] not in (("front_end", "mean"), ("front_end", "std"))]
    assert len(paths) > 80
    opened = 0
    for path in paths:
        for value in REPLACEMENTS:
            manifest_path.write_text(json.dumps(replaced(whole, path, value)))
            try:
                Artifact.open(manifest_path.parent)
            except ArtifactError:
                continue
            opened += 1
            for words in ([], ["--json"]):
                assert main(["inspect", str(manifest_path.parent), *words]) == 0, (path, value)
        capsys.readouterr()
    assert opened > 100


STEP = ("programs", "step", "onnx", "stream")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("labels", 1), 5, "'labels.1' is malformed: expected a string, found 5"),
        (("frame_rate_hz",), 0, "'frame_rate_hz' is malformed: expected a number above 0, found 0"),
        (("decoder",), "zz", "'decoder' is malformed: expected an object, found 'zz'"),
        (("conversion", "operators", "onnx"), [], "'conversion.operators.onnx' is malformed: expected an object"),
        (("parity", "onnx", "outputs"), {}, "'parity.onnx.outputs' is malformed: expected an array"),
        ((*STEP, "output_kinds"), ["frames"], "stream.output_kinds' .* expected an array of 2, one entry per output"),
        ((*STEP, "output_kinds", 0), "zz", "expected one of frames, prefix, found 'zz'"),
        ((*STEP, "inputs", 0, "dtype"), "float31", "stream.inputs.0.dtype' is malformed: expected one of float32"),
        ((*STEP, "inputs", 0, "dtype"), "float32", "stream.inputs.0.quant' .* expected null for the dtype float32"),
        (
            (*STEP, "inputs", 0, "shape", 1),
            3,
            r"stream.inputs.0.shape' .* expected 1 \(batch\) × 2 \(frames_per_step\)",
        ),
        ((*STEP, "outputs", 1, "shape"), [3], "stream.outputs.1.shape' is malformed: expected two or more sizes"),
        ((*STEP, "states", 0, "shape", 1), 0, "states.0.shape.1' .* expected a whole number of at least 1, found 0"),
        ((*STEP, "frames_per_step"), 0, "expected a whole number of at least 1, found 0"),
        ((*STEP, "states", 0, "initial"), math.nan, "NaN is not JSON"),
    ],
)
def test_what_is_wrong_is_named(manifest_path: Path, path: Path_, value: Any, words: str) -> None:
    manifest_path.write_text(json.dumps(replaced(json.loads(manifest_path.read_text()), path, value)))
    with pytest.raises(ArtifactError, match=words):
        Artifact.open(manifest_path.parent)


def test_a_file_name_is_a_name(manifest_path: Path) -> None:
    whole = json.loads(manifest_path.read_text())
    entry = {"bytes": 5, "sha256": hashlib.sha256(b"model").hexdigest()}
    for name in ("", "..", "../tiny/step.onnx", "step\0.onnx", "x" * 5000):
        manifest_path.write_text(json.dumps({**whole, "files": {name: entry}}))
        with pytest.raises(ArtifactError):
            Artifact.open(manifest_path.parent)

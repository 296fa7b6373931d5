"""What words alone can tell is told before anything is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# Each is wrong, whatever the model is.
WRONG = {
    "--to coreml": "no format 'coreml'",
    "--to tflite --quantize weights-int8": "no weights-int8 in tflite files",
    "--optimize-for speed": "expected this-machine",
    "--optimize-for this-machine --quantize weights-int8 --to tflite": "no weights-int8 in tflite files",
    "--target moon": "no target 'moon'",
    "--target integer-only --quantize float32": "is for int8 in TFLite",
    "--target integer-only --to onnx": "is for int8 in TFLite",
    "--runtime-floor tflite-runtime-1": "no runtime floor",
    "--runtime-floor tflite-runtime-2.14 --to onnx": "is for TFLite files",
    "--runtime-floor tflite-runtime-2.14 --quantize int4": "no weights of 4 bits",
    "--state internal --to onnx": "is for TFLite files alone",
    "--batch 1025": "expected a whole number from 1 to 1,024",
    "--calibrate nowhere.npy": "nowhere.npy does not exist",
    "--picture nowhere/a.png --pooling window=3": "nowhere does not exist",
    "--decoder bell:": "no decoder of the kind 'bell'; there are: keyword, alarm",
    "--decoder alarm:y": "lacks its threshold",
    "--decoder alarm:y?threshold=1&release=2": "cannot be released at 2",
    "--decoder keyword:?threshold=0.8": "there are none: name them with --labels",
    "--decoder keyword:?ignore=a,b --labels a,b": "it ignores every label there is: a, b",
    "--labels a,b,a": "'a' is there twice",
    "--labels a,,b": "one is empty",
    "--frame-rate 0": "expected frames a second",
    "-o photos": "is not an artifact alone: it holds cat.jpg",
    "-o photos/cat.jpg": "exists and is not an artifact",
    "-o photos/cat.jpg/out": "is not a folder",
}
HEAVY = ("keras", "onnx", "onnx_ir", "onnxruntime", "tensorflow")
EACH = """
import contextlib, io, json, sys
from edgernn.cli import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        status = main(words)
    print(json.dumps([status, errors.getvalue(), [name for name in json.loads(sys.argv[2]) if name in sys.modules]]))
"""


def test_a_wrong_word_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(b"anything")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    lines = [["convert", "model.keras", "-o", "out", *words.split()] for words in WRONG]
    command = [sys.executable, "-c", EACH, json.dumps(lines), json.dumps(HEAVY)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    for (words, reason), (status, error, loaded) in zip(WRONG.items(), answers, strict=True):
        assert (status, loaded) == (2, []), words
        assert error.startswith("edgernn convert: error: "), words
        assert reason in error, words
        assert len(error.splitlines()) == 1, words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.keras", "photos"]
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]

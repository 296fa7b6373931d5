"""edgernn convert as its user meets it: what it prints, what it leaves, what it says when it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgernn.artifact import Artifact
from edgernn.cli import main
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.stepping import invoke_onnx, steps
from tests.quantize.networks import FEATURES, chain, keras_outputs, randomized

EDGERNN = [sys.executable, "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]
LABELS = ["yes", "no", "silence"]
Capture = pytest.CaptureFixture[str]


def classifier() -> Any:
    return randomized(chain(layers.GRU(12, return_sequences=True, name="gru"), layers.Dense(3, activation="softmax")))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small model's file."""
    path = tmp_path_factory.mktemp("model") / "words.keras"
    classifier().save(path)
    return path


def convert(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def tree(folder: Path) -> dict[str, bytes]:
    """Return everything in a folder, hidden things too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


def one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


# success


@pytest.fixture(scope="module")
def converted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the artifact of the small model, float32 in ONNX alone."""
    target = tmp_path_factory.mktemp("artifacts") / "words"
    assert convert(model, "-o", target, "--to", "onnx", "--quantize", "float32", "--name", "my words", "-q") == 0
    return target


def test_the_artifact_opens_and_says_where_it_is_from(converted: Path, model: Path) -> None:
    artifact = Artifact.open(converted)
    assert sorted(path.name for path in converted.iterdir()) == ["certificate.npz", "manifest.json", "step.onnx"]
    assert [path.name for path in converted.parent.iterdir()] == ["words"], "nothing beside it"
    assert artifact.name == "my words"
    assert (artifact.model("onnx").scheme, artifact.model("onnx").nbytes) == (
        "float32",
        (converted / "step.onnx").stat().st_size,
    )
    conversion = artifact.conversion
    assert (conversion["source"], conversion["scheme"]) == ("words.keras", "float32")
    assert len(conversion["source_sha256"]) == 64
    assert {"edgernn", "keras", "onnxruntime"} <= set(conversion["versions"])
    assert conversion["operators"]["onnx"]["GRU"] == 1
    assert str(model.parent) not in (converted / "manifest.json").read_text(), "no path of this machine travels"


def test_the_report_is_in_the_artifact(converted: Path) -> None:
    report = Artifact.open(converted).parity["onnx"]
    assert report["steps"] == 512
    assert report["input"] == "generated noise"
    (output,) = report["outputs"]
    assert output["name"].startswith("dense")
    assert output["compared"] == 512
    assert output["max_abs"] < 1e-4
    assert output["snr_db"] > 80
    assert output["argmax_agreement"] == 1.0
    assert report["us_per_step"] > 0
    assert report["tolerance"] == asdict(SCHEMES["float32"].tolerance)


def test_the_artifact_steps_as_the_model_runs(converted: Path) -> None:
    item = Artifact.open(converted).model("onnx")
    frames = np.random.default_rng(7).normal(size=(60, FEATURES)).astype(np.float32)
    taken = steps(invoke_onnx(item.path.read_bytes()), item.spec, [frames])
    found = np.concatenate([step[item.spec.outputs[0].name][0] for step in taken])
    np.testing.assert_allclose(found, keras_outputs(classifier(), [frames[None]])[0][0], atol=1e-5)


def test_a_person_sees_stages_and_a_table(model: Path, tmp_path: Path, capsys: Capture) -> None:
    assert convert(model, "-o", tmp_path / "words", "--to", "onnx", "--steps", "600", "--seed", "3") == 0
    printed = capsys.readouterr()
    assert "dynamic-int8, proven against its source over 600 steps of generated noise" in printed.out
    header, row = printed.out.split("\n\n", 1)[1].strip().splitlines()
    for title in ("file", "output", "max error", "mean error", "SNR dB", "arg-max", "KB", "µs/step"):
        assert title in header
    assert "step.onnx" in row
    for stage in ("reading the layers", "asking the source for 600 steps", "writing onnx", "comparing"):
        assert stage in printed.err


def test_inspect_reads_what_convert_wrote(converted: Path, capsys: Capture) -> None:
    assert main(["inspect", str(converted), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    text = json.dumps(shown)
    for expected in ("my words", "step.onnx", "gru.h", "float32"):
        assert expected in text
    assert main(["inspect", str(converted)]) == 0
    assert "gru.h" in capsys.readouterr().out


def test_an_artifact_is_replaced_and_a_failure_leaves_the_old_one(model: Path, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "words"
    assert convert(model, "-o", target, "--to", "onnx", "-q") == 0
    first = tree(tmp_path)
    assert convert(model, "-o", target, "--to", "onnx", "-q", "--tolerance", "1e-9") == 1
    message = one_line(capsys.readouterr().err)
    assert "step.onnx (dynamic-int8) differs too much from the source model: output dense" in message
    assert "compared on generated noise" in message
    assert "--quantize float16 or float32 keeps more of the weights; or allow it with --tolerance" in message
    assert "worst at step" in message
    assert tree(tmp_path) == first
    assert convert(model, "-o", target, "--to", "onnx", "--quantize", "float16", "-q") == 0
    assert Artifact.open(target).model().scheme == "float16"
    assert [path.name for path in tmp_path.iterdir()] == ["words"]


@pytest.mark.parametrize("scheme", ["float32", "float16", "weights-int8", "dynamic-int8", "int8", "int4"])
def test_examples_of_the_input_are_what_it_is_proven_on(model: Path, tmp_path: Path, scheme: str) -> None:
    data = tmp_path / "frames.npz"
    np.savez(data, np.random.default_rng(8).normal(size=(3, 250, FEATURES)) * 2)
    target = tmp_path / "out" / "words"
    assert convert(model, "-o", target, "--to", "onnx", "--quantize", scheme, "--calibrate", data, "-q") == 0
    artifact = Artifact.open(target)
    assert artifact.parity["onnx"]["input"] == "frames.npz"


def test_examples_that_had_to_be_repeated_are_said_so(model: Path, tmp_path: Path, capsys: Capture) -> None:
    random = np.random.default_rng(8)
    for streams, said in ((2, "frames.npy has 500 frames, and the proof took 512: they were repeated"), (3, "")):
        np.save(tmp_path / "frames.npy", random.normal(size=(streams, 250, FEATURES)))
        arguments = (model, "-o", tmp_path / "words", "--to", "onnx", "-q", "--calibrate", tmp_path / "frames.npy")
        assert convert(*arguments) == 0
        printed = capsys.readouterr().out
        assert ("they were repeated" in printed) == bool(said)
        assert said in printed
    assert Artifact.open(tmp_path / "words").parity["onnx"]["frames"] == {"given": 750, "taken": 512}


def test_what_was_replaced_is_said(model: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = (model, "-o", tmp_path / "words", "--to", "onnx", "-q")
    assert convert(*arguments, "--name", "first") == 0
    assert "replaced what" not in capsys.readouterr().out
    assert convert(*arguments, "--name", "second") == 0
    assert "replaced what was there: first, of 20" in capsys.readouterr().out
    assert Artifact.open(tmp_path / "words").name == "second"


# failure

Prepare = Callable[[Path, Path], list[object]]
"""Gets a folder of its own and a sound model; returns arguments."""


def _file(name: str, content: bytes) -> Prepare:
    def prepare(folder: Path, model: Path) -> list[object]:
        (folder / name).write_bytes(content)
        return [folder / name, "-o", folder / "out"]

    return prepare


def _truncated(folder: Path, model: Path) -> list[object]:
    return _file("model.keras", model.read_bytes()[:-2000])(folder, model)


def _flipped(folder: Path, model: Path) -> list[object]:
    content = bytearray(model.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    return _file("model.keras", bytes(content))(folder, model)


def _with(*options: object) -> Prepare:
    return lambda folder, model: [model, "-o", folder / "out", "--to", "onnx", *options]


def _calibrated(*arrays: Any, name: str = "data.npz") -> Prepare:
    def prepare(folder: Path, model: Path) -> list[object]:
        if name.endswith(".npy"):
            np.save(folder / name, arrays[0])
        else:
            np.savez(folder / name, *arrays)
        return [*_with("--quantize", "int8", "--calibrate", folder / name)(folder, model)]

    return prepare


def _broken_npz(folder: Path, model: Path) -> list[object]:
    arguments = _calibrated(np.zeros((300, FEATURES)))(folder, model)
    path = folder / "data.npz"
    path.write_bytes(path.read_bytes()[:-30])
    return arguments


def _garbled_npz(folder: Path, model: Path) -> list[object]:
    np.savez_compressed(folder / "data.npz", np.random.default_rng(0).normal(size=(300, FEATURES)))
    content = bytearray((folder / "data.npz").read_bytes())
    content[500:600] = bytes(100)
    (folder / "data.npz").write_bytes(bytes(content))
    return _with("--calibrate", folder / "data.npz")(folder, model)


def _onto_a_folder(folder: Path, model: Path) -> list[object]:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("years of work")
    return _with()(folder, model)


def _onto_a_file(folder: Path, model: Path) -> list[object]:
    (folder / "out").write_text("a letter")
    return _with()(folder, model)


def _under_a_file(folder: Path, model: Path) -> list[object]:
    (folder / "letter").write_text("a letter")
    return [model, "-o", folder / "letter" / "out", "--to", "onnx"]


NOISE = np.random.default_rng(9).normal(size=(300, FEATURES))
FAILURES: dict[str, tuple[Prepare, int, str]] = {
    "garbage": (_file("model.keras", b"\x00garbage" * 50), 1, "cannot be loaded as a Keras model"),
    "empty file": (_file("model.keras", b""), 1, "cannot be loaded as a Keras model"),
    "truncated": (_truncated, 1, "cannot be loaded as a Keras model"),
    "bits flipped": (_flipped, 1, "cannot be loaded as a Keras model"),
    "garbled HDF5": (_file("model.h5", b"\x89HDF"), 1, "cannot be read as a Keras HDF5 file"),
    "another kind of file": (_file("model.pt", b"PK"), 2, "expected a .keras, .h5 or .onnx file"),
    "no file": (
        lambda folder, model: [folder / "nothing.keras", "-o", folder / "out"],
        2,
        "expected a .keras, .h5 or .onnx file",
    ),
    "a folder without a model": (
        lambda folder, model: [folder, "-o", folder / "out"],
        2,
        "expected a .keras, .h5 or .onnx file",
    ),
    "unknown scheme": (_with("--quantize", "int5"), 2, "no quantization 'int5'"),
    "scheme of another format": (
        _with("--to", "tflite", "--quantize", "weights-int8"),
        2,
        "no weights-int8 in tflite files",
    ),
    "unknown format": (_with("--to", "onnx,coreml"), 2, "no format 'coreml'"),
    "no format": (_with("--to", ""), 2, "no format"),
    "few steps": (_with("--steps", 10), 2, "at least 500"),
    "endless steps": (_with("--steps", 10**11), 2, "at most"),
    "negative seed": (_with("--seed", -1), 2, "--seed -1: expected a whole number from 0"),
    "options of ONNX files": (_with("--constant", "sr=16000"), 2, "are for ONNX files"),
    "tolerance of words": (_with("--tolerance", "much"), 2, "expected a number, snr=DB"),
    "tolerance of nothing": (_with("--tolerance", ""), 2, "expected a number, snr=DB"),
    "tolerance that is no number": (_with("--tolerance", "nan"), 2, "expected a number"),
    "tolerance without end": (_with("--tolerance", "0.1,snr=-inf"), 2, "expected a number"),
    "negative tolerance": (_with("--tolerance", "-0.1"), 2, "expected"),
    "unknown tolerance": (_with("--tolerance", "psnr=3"), 2, "expected a number, snr=DB"),
    "missing data": (_with("--calibrate", "/nowhere/data.npz"), 2, "data.npz does not exist"),
    "data that is no array": (_with("--calibrate", Path(__file__).parent), 2, "no audio front end"),
    "NaN": (_calibrated(np.where(NOISE > 2.5, np.nan, NOISE)), 1, "has NaN or infinity in it"),
    "too large": (_calibrated(NOISE * 1e300), 1, "has NaN or infinity in it"),
    "wrong width": (_calibrated(np.zeros((300, FEATURES + 1))), 1, f"expected frames of shape (frames, {FEATURES})"),
    "one number": (_calibrated(np.float32(3.0)), 1, "expected (frames, features)"),
    "no frames": (_calibrated(np.zeros((0, FEATURES))), 1, "no frames"),
    "words": (_calibrated(np.array([["a", "b"]])), 1, "expected numbers"),
    "objects": (_calibrated(np.array([{}], dtype=object), name="data.npy"), 1, "cannot be read"),
    "two arrays": (_calibrated(NOISE, NOISE), 1, "expected one for each input"),
    "broken archive": (_broken_npz, 1, "cannot be read as NumPy arrays"),
    "garbled archive": (_garbled_npz, 1, "cannot be read as NumPy arrays"),
    "onto a folder": (_onto_a_folder, 2, "exists and is not an artifact"),
    "onto a file": (_onto_a_file, 2, "exists and is not an artifact"),
    "under a file": (_under_a_file, 2, "is not a folder"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_one_line_and_leaves_nothing(name: str, model: Path, tmp_path: Path, capsys: Capture) -> None:
    prepare, status, reason = FAILURES[name]
    arguments = prepare(tmp_path, model)
    before = tree(tmp_path)
    assert convert(*arguments, "-q") == status
    printed = capsys.readouterr()
    assert reason in one_line(printed.err)
    assert printed.err.startswith("edgernn convert: error: ")
    assert printed.out == ""
    assert tree(tmp_path) == before


MISUSED: dict[str, tuple[list[str], str]] = {
    "no batch": (["--batch", "0"], "--batch 0: expected a whole number from 1"),
    "no frames": (["--frames-per-step", "-1"], "--frames-per-step -1: expected a whole number from 1"),
    "negative seed": (["--seed", "-1"], "--seed -1: expected a whole number from 0"),
    "floor without TFLite": (
        ["--to", "onnx", "--runtime-floor", "tflite-runtime-2.14"],
        "--runtime-floor tflite-runtime-2.14 is for TFLite files, and --to onnx writes none",
    ),
    "two placements": (["--state", "internal", "--state", "external"], "choose one of the two"),
    "half a pair": (["--state", "h="], "--state h=: expected external, internal, or INPUT=OUTPUT"),
    "no axis": (["--time-axis", "x=second"], "--time-axis x=second: expected INPUT=AXIS"),
    "two axes": (["--time-axis", "x=1", "--time-axis", "x=2"], "--time-axis x=2: x is 1 already"),
    "no number": (["--constant", "16000"], "--constant 16000: expected INPUT=NUMBER"),
}


@pytest.mark.parametrize("name", MISUSED)
def test_misuse_is_one_line_that_names_the_option(name: str, model: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments, reason = MISUSED[name]
    assert convert(model, "-o", tmp_path / "out", "-q", *arguments) == 2
    assert reason in one_line(capsys.readouterr().err)


def test_examples_that_never_change_are_refused(model: Path, tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "still.npy", np.full((600, FEATURES), 0.5, np.float32))
    assert convert(model, "-o", tmp_path / "out", "-q", "--calibrate", tmp_path / "still.npy") == 1
    assert "every number in it is the same" in one_line(capsys.readouterr().err)


def test_an_output_that_never_changes_is_said_so(tmp_path: Path, capsys: Capture) -> None:
    still = classifier()
    still.set_weights([np.zeros_like(weight) for weight in still.get_weights()])
    still.save(tmp_path / "still.keras")
    assert convert(tmp_path / "still.keras", "-o", tmp_path / "out", "-q", "--to", "onnx") == 0
    assert "never changed while it was compared" in capsys.readouterr().out


def test_what_has_a_rule_is_listed_without_a_model(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        convert("--list-layers")
    assert stop.value.code == 0
    layer_names, _, operators = capsys.readouterr().out.split("\n\n")
    assert {"LSTM", "Conv1D"} <= set(layer_names.replace(",", "").split())
    assert {"LSTM", "Gemm", "ReduceMean"} <= set(operators.replace(",", "").split())


@pytest.mark.parametrize("arguments", [[], ["model.keras"], ["model.keras", "-o", "a", "--steps", "many"]])
def test_misuse_is_explained(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        convert(*arguments)
    assert stop.value.code == 2
    assert "usage: edgernn convert" in capsys.readouterr().err


@keras.saving.register_keras_serializable("tests")
class Doubled(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        import tensorflow as tf

        return tf.math.add(x, x)


class Unregistered(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return 2.0 * x


def _given_a_state() -> Any:
    first = keras.Input((None, FEATURES), name="frames")
    _, h = layers.GRU(4, return_state=True)(first)
    return keras.Model(first, layers.GRU(4, name="bad")(first, initial_state=h))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "bidirectional": (lambda: chain(layers.Bidirectional(layers.LSTM(3), name="bad")), "'bad' (Bidirectional)"),
    "backwards": (lambda: chain(layers.GRU(3, go_backwards=True, name="bad")), "'bad' (GRU): it goes backwards"),
    "initial state": (_given_a_state, "bad (GRU) has no streaming form: its initial state comes of the frames"),
    "own layer": (lambda: chain(Doubled(name="bad")), "'bad' (Doubled): its code cannot be traced"),
    "unknown layer": (lambda: chain(Unregistered(name="bad")), "'bad' (Unregistered): it holds code"),
    "lambda": (lambda: chain(layers.Lambda(lambda x: 2 * x, name="bad")), "'bad' (Lambda): it holds code"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_without_a_streaming_form_is_refused(name: str, tmp_path: Path, capsys: Capture) -> None:
    build, reason = REFUSED[name]
    build().save(tmp_path / "model.keras")
    before = tree(tmp_path)
    assert convert(tmp_path / "model.keras", "-o", tmp_path / "out", "-q") == 1
    assert reason in one_line(capsys.readouterr().err)
    assert tree(tmp_path) == before


def test_a_window_longer_than_the_proof_is_said_so(tmp_path: Path, capsys: Capture) -> None:
    randomized(chain(layers.AveragePooling1D(700, strides=1), layers.GRU(2))).save(tmp_path / "slow.keras")
    assert convert(tmp_path / "slow.keras", "-o", tmp_path / "out", "--to", "onnx", "-q") == 2
    assert "first 699 steps give nothing yet" in one_line(capsys.readouterr().err)
    arguments = (tmp_path / "slow.keras", "-o", tmp_path / "out", "--to", "onnx", "-q", "--steps", 1300)
    assert convert(*arguments) == 0


# a training run


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


# in a process of its own


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

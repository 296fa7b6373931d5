"""edgernn convert where it fails: one line that says why, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tests.quantize.command import classifier, convert, one_line, tree
from tests.quantize.networks import FEATURES, chain, randomized

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small model's file."""
    path = tmp_path_factory.mktemp("model") / "words.keras"
    classifier().save(path)
    return path


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

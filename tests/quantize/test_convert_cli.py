"""edgernn convert as its user meets it: what it prints, and what it leaves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from edgernn.artifact import Artifact
from edgernn.cli import main
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.stepping import invoke_onnx, steps
from tests.quantize.command import classifier, convert, one_line, tree
from tests.quantize.networks import FEATURES, keras_outputs

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small model's file."""
    path = tmp_path_factory.mktemp("model") / "words.keras"
    classifier().save(path)
    return path


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


def test_what_its_outputs_mean_is_in_the_artifact(
    model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.txt").write_text("off\non\nunknown\n")
    said = ["--labels", tmp_path / "labels.txt", "--decoder", "keyword:?threshold=0.8&activation=none"]
    target, frames = tmp_path / "meant", tmp_path / "frames.csv"
    fast = ["--to", "onnx", "--quantize", "float32", "-q"]
    assert convert(model, "-o", target, *fast, *said, "--frame-rate", 50) == 0
    artifact = Artifact.open(target)
    assert (artifact.labels, artifact.frame_rate_hz) == (("off", "on", "unknown"), 50)
    assert artifact.decoder is not None
    assert (artifact.decoder["kind"], artifact.decoder["threshold"]) == ("keyword", 0.8)
    rows = np.random.default_rng(0).normal(0, 1, (400, FEATURES))
    frames.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    assert main(["run", str(target), str(frames), "--fast"]) == 0
    assert "8.00 s of frames" in capsys.readouterr().err  # by its own rate and decoder
    watched = ["--decoder", "alarm:on?threshold=0.1&refractory_ms=0", "--sink", "json:"]
    assert main(["run", str(target), str(frames), "--fast", *watched]) == 0
    assert {json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()} == {"on"}
    monkeypatch.setattr("edgernn.quantize.convert.Proof", None)  # it is told before anything takes time
    for words, reason in (
        (["--decoder", "keyword:", "--labels", "off,on"], "there are 2 labels for the 3 values of 'dense"),
        (["--decoder", "alarm:loud?threshold=1"], "the model has no 'loud' to watch; it has: dense"),
        (["--decoder", "alarm:distance?threshold=1"], "distance"),
    ):
        assert convert(model, "-o", tmp_path / "none", *fast, *words) == 2
        assert reason in one_line(capsys.readouterr().err)
    assert not (tmp_path / "none").exists()


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

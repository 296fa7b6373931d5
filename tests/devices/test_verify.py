"""edgernn verify: the same results again, and what it says when they are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgernn.artifact import Artifact, write_artifact
from edgernn.certificate import CERTIFICATE, Bound, Certificate, Golden, Made, on_levels
from edgernn.cli import main
from edgernn.devices.runner import RUNTIMES, open_model
from edgernn.devices.verify import verify
from edgernn.errors import ArtifactError, VerificationError
from edgernn.machine import describe_processor
from tests.devices.conftest import FEATURES, INSTALLED, content_of, lstm_outputs, spec_of

STEPS, PERIOD = 3000, 300
Capture = pytest.CaptureFixture[str]
Change = Callable[[Certificate], Certificate]


def as_it_is(certificate: Certificate) -> Certificate:
    return certificate


def write(path: Path, change: Change = as_it_is) -> Artifact:
    """Write the model "lstm", whose source is its formula, with a certificate made by the runners themselves."""
    kinds = sorted({RUNTIMES[name].format for name in INSTALLED})
    entry = {"scheme": "float32", "stream": spec_of("lstm").to_dict()}
    manifest = {"name": "lstm", "programs": {"step": {kind: {"file": f"step.{kind}", **entry} for kind in kinds}}}
    files = {f"step.{kind}": content_of("lstm", kind) for kind in kinds}
    bare = write_artifact(path, manifest, files)
    certificate = change(certify(bare, kinds))
    manifest["certificate"] = certificate.section()
    return write_artifact(path, manifest, {**files, CERTIFICATE: certificate.content()})


def certify(artifact: Artifact, kinds: list[str]) -> Certificate:
    frames = on_levels(np.random.default_rng(1).standard_normal((PERIOD, FEATURES)).astype(np.float32))
    truth = lstm_outputs(np.tile(frames, (STEPS // PERIOD, 1))).astype(np.float32)[:, None]
    steps = np.array([*range(PERIOD), *range(STEPS - 30, STEPS)])
    made, by = {}, {}
    for kind in kinds:
        runner = open_model(artifact.model(kind))
        made[kind] = stepped(runner.step, frames)[steps]
        golden = Golden(steps, np.arange(len(steps)), truth[steps], {})
        bound = Bound("y", 1.0, float(golden.error(made[kind]).max()), 1e-5, golden.drift(made[kind], STEPS))
        by[kind] = Made(runner.runtime, describe_processor(), (bound,))
    outputs = (Golden(steps, np.arange(len(steps)), truth[steps], made),)
    return Certificate(STEPS, (frames,), outputs, by, 1e-4, "generated noise")


def stepped(step: Callable[..., tuple[NDArray[np.float32], ...]], frames: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([step(frames[number % PERIOD][None])[0].copy() for number in range(STEPS)])


def nudged(certificate: Certificate, by: float, step: int = 7) -> Certificate:
    """Return the certificate with golden outputs that are another machine's."""
    (golden,) = certificate.outputs
    made = {kind: array.copy() for kind, array in golden.made.items()}
    for array in made.values():
        array[step:] += np.float32(by)
    return replace(certificate, outputs=(replace(golden, made=made),))


def elsewhere(certificate: Certificate) -> Certificate:
    made = {kind: replace(item, processor="m68k fpu") for kind, item in certificate.made.items()}
    return replace(certificate, made=made)


def test_the_same_machine_gives_the_same_bits(tmp_path: Path) -> None:
    replays = verify(write(tmp_path / "lstm"))
    assert {item.format for item in replays} == {RUNTIMES[name].format for name in INSTALLED}
    for item in replays:
        assert item.same_machine
        assert item.steps == STEPS
        (output,) = item.outputs
        assert (output.from_golden, output.allowed_from_golden, output.first_difference) == (0.0, 0.0, None)
        assert 0 < output.from_source < 2e-6
        assert abs(output.drift.slope_per_1000) < 1e-7


def test_one_bit_is_a_miss_on_the_same_machine(tmp_path: Path) -> None:
    artifact = write(tmp_path / "lstm", lambda c: nudged(c, 1e-6))
    with pytest.raises(VerificationError, match=r"is not bit for bit .* first difference at step 7\)"):
        verify(artifact)


def test_another_machine_may_differ_within_its_bound(tmp_path: Path) -> None:
    for item in verify(write(tmp_path / "near", lambda c: elsewhere(nudged(c, 1e-6)))):
        assert not item.same_machine
        assert item.outputs[0].first_difference == 7
        assert item.outputs[0].allowed_from_golden == 1e-5
    with pytest.raises(VerificationError, match=r"is too far from .* by 0\.01 \(allowed: 1e-05"):
        verify(write(tmp_path / "far", lambda c: elsewhere(nudged(c, 1e-2))))


def test_what_is_far_from_the_source_is_a_miss_though_it_is_golden(tmp_path: Path) -> None:
    def strict(certificate: Certificate) -> Certificate:
        return replace(certificate, tolerance=1e-9)

    with pytest.raises(VerificationError, match=r"from the source model \(allowed: 1e-09\)"):
        verify(write(tmp_path / "lstm", strict))


def test_outputs_that_are_no_numbers_are_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = write(tmp_path / "lstm", elsewhere)
    monkeypatch.setattr("edgernn.devices.verify._step_through", lambda *_: [np.full((330, 1, 2), np.nan, np.float32)])
    with pytest.raises(VerificationError, match="too far"):
        verify(artifact)


def test_command_prints_a_table_and_json(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path / "lstm").path
    assert main(["verify", str(path)]) == 0
    text = capsys.readouterr().out
    assert f"{STEPS} steps of generated noise, 330 of them compared" in text
    assert text.count("as proven") == len({RUNTIMES[name].format for name in INSTALLED})
    assert main(["verify", str(path), "--json", "--runtime", INSTALLED[0]]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verified"] is True
    (item,) = found["replays"]
    assert item["format"] == RUNTIMES[INSTALLED[0]].format
    assert item["outputs"][0]["first_difference"] is None


def test_command_fails_with_the_table_and_one_line(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path / "lstm", lambda c: nudged(c, 0.5)).path
    assert main(["verify", str(path)]) == 1
    printed = capsys.readouterr()
    assert "differs" in printed.out
    assert len(printed.err.splitlines()) == 1
    assert "do not trust it on this machine" in printed.err
    assert main(["verify", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verified"] is False


def test_an_artifact_without_a_certificate_says_so(energy_artifact: Artifact, capsys: Capture) -> None:
    with pytest.raises(ArtifactError, match="no drift certificate"):
        verify(energy_artifact)
    assert main(["verify", str(energy_artifact.path)]) == 1
    assert "convert the model again" in capsys.readouterr().err


def test_a_runtime_for_another_format_is_misuse(tmp_path: Path, capsys: Capture) -> None:
    def onnx_alone(certificate: Certificate) -> Certificate:
        return replace(certificate, made={"onnx": certificate.made["onnx"]})

    path = write(tmp_path / "lstm", onnx_alone).path
    assert main(["verify", str(path), "--runtime", "litert"]) == 2
    assert "litert runs tflite files, and the certificate is for onnx" in capsys.readouterr().err

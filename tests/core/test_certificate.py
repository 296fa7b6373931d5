"""The certificate as a value: what is written is read, and nothing else is."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgernn.artifact import MANIFEST, Artifact, write_artifact
from edgernn.certificate import (
    CERTIFICATE,
    Bound,
    Certificate,
    Drift,
    Golden,
    Made,
    drift_of,
    on_levels,
    read_certificate,
)
from edgernn.errors import ArtifactError
from edgernn.machine import describe_processor
from edgernn.spec import StateSpec, StreamSpec, TensorSpec

SPEC = StreamSpec(
    (TensorSpec("x", (1, 2, 3)),),
    (TensorSpec("y", (1, 2, 2)),),
    (StateSpec("h", "h_in", "h_out", (1, 2)),),
    frames_per_step=2,
    output_delays=(0,),
    output_kinds=("frames",),
)


def certificate() -> Certificate:
    random = np.random.default_rng(0)
    frames = on_levels(random.standard_normal((20, 3)).astype(np.float32))
    steps, asked = np.array([0, 1, 5, 99]), np.array([0, 2, 3])
    made = random.standard_normal((4, 1, 2, 2)).astype(np.float32)
    drift = Drift(0.1, 0.2, -0.3)
    bounds = (Bound("y", 1.0, 0.5, 1.0, drift),)
    golden = Golden(steps, asked, made[asked], {"onnx": made})
    return Certificate(100, (frames,), (golden,), {"onnx": Made("ort 1", "x86_64", bounds)}, 0.1, "noise")


def write(path: Path, item: Certificate | None) -> Artifact:
    programs = {"step": {"onnx": {"file": "step.onnx", "scheme": "float32", "stream": SPEC.to_dict()}}}
    manifest: dict[str, Any] = {"name": "tiny", "programs": programs}
    files = {"step.onnx": b"model"}
    if item:
        manifest["certificate"] = item.section()
        files[CERTIFICATE] = item.content()
    return write_artifact(path, manifest, files)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = certificate()
    found = read_certificate(write(tmp_path / "tiny", written))
    assert found.made == written.made
    assert (found.steps, found.tolerance, found.origin) == (100, 0.1, "noise")
    np.testing.assert_array_equal(found.frames[0], written.frames[0])
    assert found.frames[0].dtype == np.float32
    for name in ("steps", "asked", "source"):
        np.testing.assert_array_equal(getattr(found.outputs[0], name), getattr(written.outputs[0], name))
    np.testing.assert_array_equal(found.outputs[0].made["onnx"], written.outputs[0].made["onnx"])


def test_the_same_certificate_is_the_same_bytes() -> None:
    assert certificate().content() == certificate().content()


def test_frames_are_repeated_in_steps() -> None:
    item = certificate()
    chunks = list(item.chunks(SPEC))
    assert len(chunks) == 100
    joined = np.concatenate([chunk for (chunk,) in chunks])
    np.testing.assert_array_equal(joined, np.tile(item.frames[0], (10, 1)))


def test_a_batch_keeps_its_streams_apart() -> None:
    frames = np.arange(2 * 8 * 3, dtype=np.float32).reshape(2, 8, 3)
    spec = replace(SPEC, inputs=(TensorSpec("x", (2, 2, 3)),), batch=2)
    chunks = [chunk for (chunk,) in replace(certificate(), frames=(frames,), steps=6).chunks(spec)]
    np.testing.assert_array_equal(np.concatenate(chunks, axis=1), np.concatenate([frames, frames[:, :4]], axis=1))


FLOATS = arrays(np.float32, st.integers(1, 30), elements=st.floats(-(2.0**100), 2.0**100, width=32))


@given(FLOATS)
def test_levels_are_near_and_stay(frames: NDArray[np.float32]) -> None:
    rounded = on_levels(frames)
    assert rounded.dtype == np.float32
    largest = float(np.abs(frames.astype(np.float64)).max())
    assert np.abs(rounded.astype(np.float64) - frames).max() <= largest / 32767 + 1e-36
    np.testing.assert_array_equal(on_levels(rounded), rounded)


def test_whole_numbers_stay_what_they_are() -> None:
    tokens = np.array([3, 2**30, -7], np.int32)
    assert on_levels(tokens) is tokens


def test_drift_is_a_line_through_the_errors() -> None:
    steps = np.arange(5000)
    noise = np.random.default_rng(0).normal(0, 1e-4, (5000, 3))
    found = drift_of(steps, 0.01 + 2e-6 * steps[:, None] + noise, 5000)
    assert found.slope_per_1000 == pytest.approx(0.002, rel=0.01)
    assert found.first_tenth == pytest.approx(0.01 + 2e-6 * 250, rel=0.01)
    assert found.last_tenth == pytest.approx(0.01 + 2e-6 * 4750, rel=0.01)


def test_an_artifact_without_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no drift certificate: it was converted by an older EdgeRNN"):
        read_certificate(write(tmp_path / "old", None))


def with_arrays(**changes: NDArray[Any] | None) -> bytes:
    loaded = dict(np.load(io.BytesIO(certificate().content())))
    for name, array in changes.items():
        key = name.replace("_", ".")
        if array is None:
            del loaded[key]
        else:
            loaded[key] = array
    buffer = io.BytesIO()
    np.savez(buffer, **loaded)
    return buffer.getvalue()


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.0.npy", bytes(3 * 2**20))
    return buffer.getvalue()


GOLD = np.zeros((4, 1, 2, 2), np.float32)
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "no archive": (lambda: b"nothing", "cannot be read as NumPy arrays"),
    "cut off": (lambda: certificate().content()[:-100], "cannot be read as NumPy arrays"),
    "bomb": (bomb, "unpacks to more than 2 MB"),
    "objects": (lambda: with_arrays(frames_0=np.array([{}], object)), "cannot be read as NumPy arrays"),
    "no frames": (lambda: with_arrays(frames_0=None), "lacks the array 'frames.0'"),
    "other features": (lambda: with_arrays(frames_0=np.zeros((20, 4), np.int16)), "of shape any × 3"),
    "empty": (lambda: with_arrays(frames_0=np.zeros((0, 3), np.int16)), "of shape any × 3"),
    "half a step": (lambda: with_arrays(frames_0=np.zeros((19, 3), np.int16)), "for whole steps"),
    "wrong dtype": (lambda: with_arrays(frames_0=np.zeros((20, 3))), "should be finite int16"),
    "NaN": (lambda: with_arrays(onnx_0=GOLD * np.nan), "should be finite float32"),
    "short golden": (lambda: with_arrays(onnx_0=GOLD[1:]), "'onnx.0' should be"),
    "falling": (lambda: with_arrays(steps_0=np.array([0, 5, 1, 99], np.int32)), "'steps.0' should rise"),
    "beyond": (lambda: with_arrays(steps_0=np.array([0, 1, 5, 100], np.int32)), "to below 100"),
    "asked beyond": (lambda: with_arrays(asked_0=np.array([0, 2, 4], np.int32)), "'asked.0' should rise"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_arrays_are_named(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgernn.certificate.MOST_BYTES", 2 * 2**20)
    content, reason = BROKEN[fault]
    write(tmp_path / "tiny", certificate())
    manifest = json.loads((tmp_path / "tiny" / MANIFEST).read_text())
    del manifest["format"], manifest["format_version"], manifest["files"]
    files = {"step.onnx": b"model", CERTIFICATE: content()}
    artifact = write_artifact(tmp_path / "tiny", manifest, files)
    with pytest.raises(ArtifactError, match=reason) as caught:
        read_certificate(artifact)
    assert CERTIFICATE in str(caught.value)


MALFORMED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "file": (lambda c: c.update(file="../../etc/passwd"), "certificate.file' is malformed: expected one of"),
    "steps": (lambda c: c.update(steps=0), "certificate.steps' is malformed"),
    "hours of steps": (lambda c: c.update(steps=10**9), "certificate.steps' is malformed: .* at most 1000000, found"),
    "format": (lambda c: c["made"].update(tflite={}), "one of the formats of the program 'step': onnx"),
    "none": (lambda c: c.update(made={}), "certificate.made' is malformed"),
    "bounds": (lambda c: c["made"]["onnx"].update(bounds=[]), "one for each output: y"),
    "tolerance": (lambda c: c.update(tolerance=-1), "certificate.tolerance' is malformed"),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_section_is_named(fault: str, tmp_path: Path) -> None:
    edit, reason = MALFORMED[fault]
    write(tmp_path / "tiny", certificate())
    path = tmp_path / "tiny" / MANIFEST
    manifest = json.loads(path.read_text())
    edit(manifest["certificate"])
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=reason):
        read_certificate(Artifact.open(tmp_path / "tiny"))


def test_files_that_are_not_of_one_model_are_named(tmp_path: Path) -> None:
    other = replace(SPEC, outputs=(TensorSpec("y", (1, 2, 5)),))
    item = certificate()
    item = replace(item, made={**item.made, "tflite": item.made["onnx"]})
    programs = {
        kind: {"file": f"step.{kind}", "scheme": "float32", "stream": spec.to_dict()}
        for kind, spec in (("onnx", SPEC), ("tflite", other))
    }
    manifest = {"name": "two", "programs": {"step": programs}, "certificate": item.section()}
    files = {"step.onnx": b"one", "step.tflite": b"other", CERTIFICATE: item.content()}
    artifact = write_artifact(tmp_path / "two", manifest, files)
    with pytest.raises(ArtifactError, match=r"'certificate.made.tflite' is malformed: .* what step.onnx does"):
        read_certificate(artifact)


X86 = "processor\t: 0\nflags\t\t: fpu vme avx2 fma avx2 sse4_1\n\nprocessor\t: 1\nflags\t\t: other\n"
A72 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\n"


@pytest.mark.parametrize(("text", "words"), [(X86, "avx2 fma sse4_1"), (A72, "asimd 0xd08"), (None, "")])
def test_a_processor_is_its_instructions(text: str | None, words: str, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    if text:
        (tmp_path / "proc" / "cpuinfo").write_text(text)
    architecture, _, rest = describe_processor(tmp_path).partition(" ")
    assert architecture in describe_processor()
    assert rest == words

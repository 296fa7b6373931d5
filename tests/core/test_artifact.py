from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgernn.artifact import MANIFEST, Artifact, write_artifact
from edgernn.errors import ArtifactError, UsageError
from edgernn.spec import StateSpec, StreamSpec, TensorSpec

STREAM = StreamSpec(
    (TensorSpec("x", (1, 1, 2)),),
    (TensorSpec("y", (1, 1, 2)),),
    (StateSpec("h", "h_in", "h_out", (1, 2)),),
    output_delays=(0,),
    output_kinds=("frames",),
)
PROGRAMS = {"step": {"onnx": {"file": "step.onnx", "scheme": "float32", "stream": STREAM.to_dict()}}}


def write(path: Path, **manifest: Any) -> Artifact:
    return write_artifact(path, {"name": "tiny", "programs": PROGRAMS, **manifest}, {"step.onnx": b"model"})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    artifact = write(tmp_path / "tiny", labels=["a", "b"], frame_rate_hz=100.0)
    assert artifact == Artifact.open(str(tmp_path / "tiny"))
    assert (artifact.name, artifact.labels, artifact.frame_rate_hz) == ("tiny", ("a", "b"), 100.0)
    model = artifact.model()
    assert (model.format, model.scheme, model.spec, model.nbytes) == ("onnx", "float32", STREAM, 5)
    with pytest.raises(UsageError, match="as onnx, not as tflite: convert the model again with --to tflite"):
        artifact.model("tflite")


def test_manifest_has_the_digest_of_every_file(tmp_path: Path) -> None:
    write(tmp_path / "tiny")
    manifest = json.loads((tmp_path / "tiny" / MANIFEST).read_text())
    digest = hashlib.sha256(b"model").hexdigest()
    assert manifest["files"] == {"step.onnx": {"bytes": 5, "sha256": digest}}


def test_artifact_is_replaced_whole_and_nothing_else_is(tmp_path: Path) -> None:
    write(tmp_path / "tiny")
    assert write(tmp_path / "tiny", labels=["new"]).labels == ("new",)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(UsageError, match="not an artifact"):
        write(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file is not a folder"):
        write(tmp_path / "file" / "tiny")
    before = write(tmp_path / "tiny", labels=["old"])
    rename = Path.rename

    def refuse_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(ArtifactError, match="No space left on device"):
        write(tmp_path / "tiny", labels=["new"])
    assert Artifact.open(tmp_path / "tiny") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "tiny"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("cat.jpg", "cat"), (MANIFEST, '{"name": "my web page"}'), (MANIFEST, "[]"), (MANIFEST, "{")],
)
def test_only_what_an_artifact_put_there_is_replaced(name: str, content: str, tmp_path: Path) -> None:
    write(tmp_path / "tiny")
    (tmp_path / "tiny" / name).write_text(content)
    with pytest.raises(UsageError, match=f"is not an artifact alone: it holds {name}"):
        write(tmp_path / "tiny")
    assert (tmp_path / "tiny" / name).read_text() == content
    assert (tmp_path / "tiny" / "step.onnx").read_bytes() == b"model"


def test_a_link_goes_on_pointing_at_the_artifact(tmp_path: Path) -> None:
    write(tmp_path / "tiny")
    (tmp_path / "latest").symlink_to("tiny")
    write(tmp_path / "latest", labels=["new"])
    assert (tmp_path / "latest").is_symlink()
    assert Artifact.open(tmp_path / "tiny").labels == ("new",)


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is not an artifact"):
        write(tmp_path / "pipe")


@pytest.mark.parametrize("moved", ["tiny", "new"])
def test_an_interrupt_while_replacing_leaves_an_artifact(
    moved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "tiny", labels=["old"])
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        found = rename(self, target)
        if self.name == moved:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "tiny", labels=["new"])
    assert Artifact.open(tmp_path / "tiny").labels == (("old",) if moved == "tiny" else ("new",))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_what_is_not_there_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tiny does not exist; expected the folder of an artifact"):
        Artifact.open(tmp_path / "tiny")


def test_a_program_without_a_digest_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "tiny")
    (tmp_path / "tiny" / "other.onnx").write_bytes(b"model")
    change(tmp_path / "tiny" / MANIFEST, lambda m: m["programs"]["step"]["onnx"].update(file="other.onnx"))
    with pytest.raises(ArtifactError, match=r"programs\.step\.onnx\.file' is malformed: expected one of step.onnx"):
        Artifact.open(tmp_path / "tiny")


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda f: f.rename(f.with_name("moved")) and f.write_bytes(b"model"), "expected a folder"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), f"has no {MANIFEST}"),
    "half a manifest": (lambda f: (f / MANIFEST).write_text((f / MANIFEST).read_text()[:200]), "cannot be read"),
    "another json": (lambda f: (f / MANIFEST).write_text("[]"), "not the manifest of an EdgeRNN artifact"),
    "future": (
        lambda f: change(f / MANIFEST, lambda m: m.update(format_version=9)),
        "version 9, this .* reads version 1",
    ),
    "no files": (
        lambda f: change(f / MANIFEST, lambda m: m.pop("files")),
        "'files' is malformed: expected an object that is not empty, found nothing",
    ),
    "no program": (lambda f: change(f / MANIFEST, lambda m: m.pop("programs")), "'programs' is malformed"),
    "lost file": (lambda f: (f / "step.onnx").unlink(), r"step.onnx is listed .* cannot be read"),
    "truncated": (lambda f: (f / "step.onnx").write_bytes(b"mod"), "has 3 bytes, the manifest says 5"),
    "flipped bit": (lambda f: (f / "step.onnx").write_bytes(b"mod\x64l"), "does not match its digest"),
    "escape": (
        lambda f: change(f / MANIFEST, lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": ""}})),
        "not the name of a file in the artifact",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named(fault: str, tmp_path: Path) -> None:
    write(tmp_path / "tiny")
    break_it, words = FAULTS[fault]
    break_it(tmp_path / "tiny")
    with pytest.raises(ArtifactError, match=words) as caught:
        Artifact.open(tmp_path / "tiny")
    assert "tiny" in str(caught.value)

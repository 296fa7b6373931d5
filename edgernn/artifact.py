"""The artifact: a folder with `manifest.json` beside plain model files, checked whenever it is opened.

No pickle, no code, no archive format: any tool can read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgernn.errors import ArtifactError, UsageError
from edgernn.spec import StreamSpec

__all__ = ["FORMAT_VERSION", "MANIFEST", "Artifact", "ModelFile", "check_target", "write_artifact"]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ModelFile:
    """One program in one format."""

    format: str
    """"tflite" or "onnx"."""
    path: Path
    scheme: str
    """Quantization scheme: "float32", "float16", "dynamic-int8" or "int8"."""
    spec: StreamSpec
    nbytes: int


@dataclass(frozen=True)
class Artifact:
    """An opened artifact; what it holds has been checked against its digests."""

    path: Path
    name: str
    programs: Mapping[str, Mapping[str, ModelFile]]
    """Program name to format to file; a streaming model has the one program "step"."""
    labels: tuple[str, ...] = ()
    """What each element of the output stands for."""
    frame_rate_hz: float | None = None
    """Input frames per second of real time, where known."""
    front_end: Mapping[str, Any] | None = None
    """Parameters of `edgernn.frontend.LogMel`, where the input is sound."""
    decoder: Mapping[str, Any] | None = None
    """Parameters of `edgernn.decode.keyword.KeywordSpec`."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Where the model comes from: data, recipe, accuracy."""
    conversion: Mapping[str, Any] = field(default_factory=dict)
    """How it was converted: tool versions, options, source digest."""
    parity: Mapping[str, Any] = field(default_factory=dict)
    """How far each file is from the source model, by format."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Artifact:
        """Read and check the artifact at `path`; raise `ArtifactError` naming what is wrong."""
        folder = Path(path)
        manifest = _read_manifest(folder)
        listed = _section(folder, manifest, "files")
        for name, entry in listed.items():
            _check_file(folder, name, entry)
        try:
            programs = {
                program: {kind: _model_file(folder, kind, entry, listed) for kind, entry in models.items()}
                for program, models in manifest["programs"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{folder / MANIFEST}: the section 'programs' is malformed: {error!r}") from error
        return cls(
            path=folder,
            name=str(manifest.get("name", folder.name)),
            programs=programs,
            labels=tuple(manifest.get("labels") or ()),
            frame_rate_hz=manifest.get("frame_rate_hz"),
            front_end=manifest.get("front_end"),
            decoder=manifest.get("decoder"),
            training=manifest.get("training") or {},
            conversion=manifest.get("conversion") or {},
            parity=manifest.get("parity") or {},
        )

    def model(self, *formats: str, program: str = "step") -> ModelFile:
        """Return the file of `program` in the first of `formats` (default: any) that the artifact holds."""
        models = self.programs.get(program, {})
        for kind in formats or models:
            if kind in models:
                return models[kind]
        wanted = " or ".join(formats) or "any format"
        raise UsageError(
            f"{self.path} holds the program '{program}' as {', '.join(models) or 'nothing'}, not as {wanted}: "
            f"convert the model again with --to {','.join(formats)}"
        )


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise `UsageError` where `write_artifact` would not write: ask before doing what takes minutes."""
    target = Path(path)
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file()):
        raise UsageError(f"{target} exists and is not an artifact: choose another name for the output")
    existing = next(folder for folder in target.absolute().parents if folder.exists())
    if not existing.is_dir():
        raise UsageError(f"{target} cannot be written: {existing} is not a folder")


def write_artifact(path: str | os.PathLike[str], manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Artifact:
    """Write an artifact whole or not at all, replacing one that is there.

    `manifest` lacks the format version and the digests; they are added here. The folder is built beside its
    destination and renamed, so that a reader never meets half of it. A folder that holds anything but an artifact
    is never replaced.
    """
    target = Path(path)
    check_target(target)
    digests = {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in files.items()}
    whole = {"format": "edgernn", "format_version": FORMAT_VERSION, **manifest, "files": digests}
    text = json.dumps(whole, indent=1, allow_nan=False) + "\n"
    try:
        _replace_folder(target, {**files, MANIFEST: text.encode()})
    except OSError as error:
        raise ArtifactError(f"{target} cannot be written: {error.strerror}: {error.filename}") from error
    return Artifact.open(target)


def _replace_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Put a folder of `files` in the place of `target`; on any failure, what was there stays there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    fresh, old = scratch / "new", scratch / "old"
    try:
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not an artifact: expected a folder with a {MANIFEST} in it")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}; copy or convert the artifact again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "edgernn":
        raise ArtifactError(f'{path} is not the manifest of an EdgeRNN artifact (it lacks "format": "edgernn")')
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version!r}, this EdgeRNN reads version {FORMAT_VERSION}: "
            "convert the model again, or install the version of EdgeRNN that wrote it"
        )
    return manifest


def _section(folder: Path, manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = manifest.get(name)
    if not isinstance(section, dict) or not section:
        raise ArtifactError(f"{folder / MANIFEST}: the section '{name}' is missing or empty")
    return section


def _check_file(folder: Path, name: str, entry: Any) -> None:
    path = folder / name
    if Path(name).name != name or not isinstance(entry, dict):
        raise ArtifactError(f"{folder / MANIFEST}: {name!r} is not the name of a file in the artifact")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} is listed in the manifest and cannot be read: {error.strerror}") from error
    if len(content) != entry.get("bytes"):
        raise ArtifactError(f"{path} has {len(content)} bytes, the manifest says {entry.get('bytes')}: copy it again")
    found = hashlib.sha256(content).hexdigest()
    if found != entry.get("sha256"):
        raise ArtifactError(
            f"{path} does not match its digest: expected SHA-256 {entry.get('sha256')}, found {found}; copy it again"
        )


def _model_file(folder: Path, kind: str, entry: Mapping[str, Any], listed: Collection[str]) -> ModelFile:
    path = folder / entry["file"]
    if entry["file"] not in listed:  # nothing is opened whose digest was not checked
        raise ArtifactError(
            f"{folder / MANIFEST}: the {kind} program names {entry['file']!r}, which 'files' does not list"
        )
    spec = StreamSpec.from_dict(entry["stream"])
    return ModelFile(kind, path, str(entry["scheme"]), spec, path.stat().st_size)

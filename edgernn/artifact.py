"""The artifact: a folder with `manifest.json` beside plain model files, checked whenever it is opened.

No pickle, no code, no archive format: any tool can read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgernn.approximation import Approximation
from edgernn.errors import ArtifactError, UsageError
from edgernn.files import check_file, check_there, read_file
from edgernn.spec import Reader, StreamSpec

__all__ = ["FORMAT_VERSION", "MANIFEST", "SIGNATURE", "Artifact", "ModelFile", "check_target", "write_artifact"]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
"""Who vouches for it (`edgernn.devices.signing`); is there once the artifact was signed."""
MOST_MANIFEST = 64 * 2**20  # bytes


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
    files: tuple[str, ...] = ()
    """Names of all its files but the manifest and the signature."""
    labels: tuple[str, ...] = ()
    """What each element of the output stands for."""
    frame_rate_hz: float | None = None
    """Input frames per second of real time, where known."""
    front_end: Mapping[str, Any] | None = None
    """Parameters of `edgernn.frontend.LogMel`, where the input is sound."""
    front_end_embedded: bool = False
    """Whether the model has the front end inside, and takes samples."""
    decoder: Mapping[str, Any] | None = None
    """Parameters of `edgernn.decode.keyword.KeywordSpec`."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Where the model comes from: data, recipe, accuracy."""
    conversion: Mapping[str, Any] = field(default_factory=dict)
    """How it was converted: tool versions, options, source digest."""
    parity: Mapping[str, Any] = field(default_factory=dict)
    """How far each file is from the source model, by format."""
    approximation: Approximation | None = None
    """How far what was bounded by name is from the exact model; None where nothing is approximated."""
    certificate: Mapping[str, Any] = field(default_factory=dict)
    """What `edgernn.certificate` reads; empty in an artifact of an older EdgeRNN."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Artifact:
        """Read and check the artifact at `path`.

        Raises `ArtifactError` naming what is wrong with it, `UsageError` where there is nothing at all.
        """
        folder = Path(path)
        manifest = Reader(_read_manifest(folder), f"{folder / MANIFEST}: ")
        listed, programs = manifest.section("files", least=1), manifest.section("programs", least=1)
        for name in listed:
            _check_file(folder, name, listed.section(name).values)
        labels = manifest.array("labels") if manifest.has("labels") else None
        return cls(
            path=folder,
            name=manifest.text("name") if "name" in manifest else folder.name,
            files=tuple(listed),
            programs={program: _model_files(folder, programs.section(program), listed) for program in programs},
            labels=tuple(map(labels.text, labels)) if labels else (),
            frame_rate_hz=manifest.positive("frame_rate_hz") if manifest.has("frame_rate_hz") else None,
            front_end=manifest.section("front_end").values if manifest.has("front_end") else None,
            front_end_embedded=manifest.flag("front_end_embedded"),
            decoder=manifest.section("decoder").values if manifest.has("decoder") else None,
            training=manifest.section("training").values if manifest.has("training") else {},
            conversion=_conversion(manifest),
            parity=_parity(manifest),
            approximation=Approximation.read(manifest.section("approximation"))
            if manifest.has("approximation")
            else None,
            certificate=_certificate(manifest, listed),
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
    if target.is_dir():
        foreign = _foreign(target)
        if foreign:
            raise UsageError(
                f"{target} exists and is not an artifact alone: it holds {foreign}; "
                "choose another name for the output, or move that away"
            )
    elif target.exists():
        raise UsageError(f"{target} exists and is not an artifact: choose another name for the output")
    existing = next(folder for folder in target.absolute().parents if folder.exists())
    if not existing.is_dir():
        raise UsageError(f"{target} cannot be written: {existing} is not a folder")


def _foreign(folder: Path) -> str:
    """Return the name of something in `folder` that no artifact put there, "" if there is none."""
    try:
        manifest = json.loads(read_file(folder / MANIFEST, MOST_MANIFEST))
    except (OSError, ValueError, RecursionError):
        manifest = None
    ours = isinstance(manifest, dict) and manifest.get("format") == "edgernn"
    listed = manifest.get("files") if ours else None
    names = {MANIFEST, SIGNATURE, *(listed if isinstance(listed, dict) else ())} if ours else set()
    strangers = (path.name for path in sorted(folder.iterdir()) if path.name not in names or path.is_dir())
    return next(strangers, "")


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
    """Put a folder of `files` in the place of `target`; on any failure or interrupt, what was there stays there."""
    target = target.resolve()  # a link stays, and goes on pointing at the artifact
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    fresh, old = scratch / "new", scratch / "old"
    try:
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        _check_whole(fresh, target)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)  # if even this fails, the old artifact stays in the scratch folder
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(scratch, ignore_errors=True)


def _check_whole(fresh: Path, target: Path) -> None:
    """Open what is to take the place of `target`: what cannot be opened never does."""
    try:
        Artifact.open(fresh)
    except ArtifactError as error:
        raise ArtifactError(f"{str(error).replace(str(fresh), str(target))}; nothing was written") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    check_there(folder, "the folder of an artifact, as edgernn convert writes it")
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not an artifact: expected a folder with a {MANIFEST} in it")
    try:
        manifest = json.loads(read_file(path, MOST_MANIFEST).decode(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST}") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(f"{path} cannot be read: {reason}; copy or convert the artifact again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "edgernn":
        raise ArtifactError(f'{path} is not the manifest of an EdgeRNN artifact (it lacks "format": "edgernn")')
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version!r}, this EdgeRNN reads version {FORMAT_VERSION}: "
            "convert the model again, or install the version of EdgeRNN that wrote it"
        )
    return manifest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON: expected a finite number or null")


def _check_file(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    path = folder / name
    if Path(name).name != name or name in ("", "..") or "\0" in name:
        raise ArtifactError(f"{folder / MANIFEST}: {name!r} is not the name of a file in the artifact")
    try:
        size = check_file(path)
        if size != entry.get("bytes"):
            raise ArtifactError(f"{path} has {size} bytes, the manifest says {entry.get('bytes')}: copy it again")
        content = read_file(path, size)
    except OSError as error:
        raise ArtifactError(f"{path} is listed in the manifest and cannot be read: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry.get("sha256"):
        raise ArtifactError(
            f"{path} does not match its digest: expected SHA-256 {entry.get('sha256')}, found {found}; copy it again"
        )


def _model_files(folder: Path, models: Reader, listed: Reader) -> dict[str, ModelFile]:
    return {kind: _model_file(folder, kind, models.section(kind), listed) for kind in models}


def _model_file(folder: Path, kind: str, entry: Reader, listed: Reader) -> ModelFile:
    name = entry.text("file")
    if name not in listed:  # nothing is opened whose digest was not checked
        raise entry.wrong("file", f"one of {', '.join(listed)}, which 'files' lists")
    spec = StreamSpec.read(entry.section("stream"))
    return ModelFile(kind, folder / name, entry.text("scheme"), spec, (folder / name).stat().st_size)


def _certificate(manifest: Reader, listed: Reader) -> Mapping[str, Any]:
    if not manifest.has("certificate"):
        return {}
    section = manifest.section("certificate")
    section.text("file", tuple(listed))
    return section.values


def _conversion(manifest: Reader) -> Mapping[str, Any]:
    if not manifest.has("conversion"):
        return {}
    conversion = manifest.section("conversion")
    if conversion.has("operators"):
        operators = conversion.section("operators")
        for kind in operators:
            operators.section(kind)
    return conversion.values


def _parity(manifest: Reader) -> Mapping[str, Any]:
    if not manifest.has("parity"):
        return {}
    parity = manifest.section("parity")
    for report in map(parity.section, parity):
        if report.has("accuracy"):
            report.section("accuracy")
        if "outputs" in report:
            outputs = report.array("outputs")
            for index in outputs:
                outputs.section(index)
    return parity.values

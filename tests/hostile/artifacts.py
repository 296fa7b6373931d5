"""Artifacts that are damaged, do not fit together, or mean harm."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import helper, numpy_helper

from tests.hostile.case import Bases, Case, Prepare, edit_manifest, flips, truncations
from tests.hostile.onnx_files import endless, recursive

COMMANDS = ("inspect", "verify", "run", "profile")
FILES = ("manifest.json", "step.tflite", "step.onnx", "certificate.npz")
Spoil = Callable[[Path], object]
"""Changes the copy of an artifact in a folder."""


def command(name: str, folder: Path, bases: Bases, *options: object) -> list[object]:
    """Return the command line that gives the artifact in a folder to a command."""
    more = [bases.wav, "--fast"] if name == "run" else []
    return [name, folder / "artifact", *more, *options]


def spoiled(spoil: Spoil, name: str, *options: object) -> Prepare:
    def prepare(folder: Path, bases: Bases) -> list[object]:
        shutil.copytree(bases.artifact, folder / "artifact")
        spoil(folder / "artifact")
        return command(name, folder, bases, *options)

    return prepare


def content(file: str, change: Callable[[bytes], bytes], known: bool = False) -> Spoil:
    """Return what changes a file's bytes and, if `known`, makes the manifest agree."""

    def spoil(folder: Path) -> None:
        (folder / file).write_bytes(change((folder / file).read_bytes()))
        if known:
            edit_manifest(folder, lambda manifest: None)

    return spoil


def manifest(edit: Callable[[dict[str, Any]], object]) -> Spoil:
    return lambda folder: edit_manifest(folder, edit)


def stream(edit: Callable[[dict[str, Any]], object]) -> Spoil:
    """Return what changes the spec of the step in both formats."""
    return manifest(lambda m: [edit(entry["stream"]) for entry in m["programs"]["step"].values()])


def cases() -> Iterator[tuple[str, Case]]:
    """Yield every case with its name."""
    yield from _damaged()
    yield from _damaged_and_signed()
    for number, (name, (spoil, says)) in enumerate(MANIFESTS.items()):
        yield f"manifest {name}", Case(spoiled(spoil, COMMANDS[number % 4]), says)
    for number, (name, (spoil, says)) in enumerate(PLACES.items()):
        yield f"artifact at {name}", Case(spoiled(spoil, COMMANDS[number % 4]), says)
    for name, (spoil, says) in SIGNED.items():
        yield f"signed {name}", Case(spoiled(spoil, "verify"), says)


def _damaged() -> Iterator[tuple[str, Case]]:
    """Yield files that were damaged on their way: the digests tell."""
    for number, file in enumerate(FILES):
        for index, (name, change) in enumerate(truncations(5)):
            says = "cannot be read" if file == "manifest.json" else "the manifest says"
            yield f"{file} {name}", Case(spoiled(content(file, change), COMMANDS[(number + index) % 4]), says)
    for file in FILES[1:]:
        for seed in range(2):
            prepare = spoiled(content(file, flips(seed)), COMMANDS[seed])
            yield f"{file} bit {seed} flipped", Case(prepare, "does not match its digest")


def _damaged_and_signed() -> Iterator[tuple[str, Case]]:
    """Yield files that were damaged before their digests were taken: the runtimes meet them."""
    for file in FILES[1:]:
        runtime = {"step.tflite": ("--runtime", "litert"), "step.onnx": ("--runtime", "onnxruntime")}.get(file, ())
        for name, change in truncations(5):
            yield f"{file} {name}, signed", Case(spoiled(content(file, change, known=True), "verify", *runtime))


def _deep(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": ' + "[" * 200_000)


def _escape(name: str) -> Spoil:
    """Return what lists a file outside the artifact, with its true digest."""

    def spoil(folder: Path) -> None:
        outside = folder.parent / "secret"
        outside.write_bytes(b"secret")
        edit_manifest(folder, lambda m: m["files"].update({name: dict(m["files"]["step.onnx"])}))

    return spoil


MANIFESTS: dict[str, tuple[Spoil, str]] = {
    "of the future": (manifest(lambda m: m.update(format_version=2)), "format version 2"),
    "of no version": (manifest(lambda m: m.pop("format_version")), "format version None"),
    "of a version in words": (manifest(lambda m: m.update(format_version="1")), "format version '1'"),
    "of another program": (manifest(lambda m: m.update(format="coreml")), "not the manifest"),
    "of nothing": (lambda f: (f / "manifest.json").write_text("{}"), "not the manifest"),
    "null": (lambda f: (f / "manifest.json").write_text("null"), "not the manifest"),
    "a number": (lambda f: (f / "manifest.json").write_text("1e999"), "not the manifest"),
    "NaN": (lambda f: (f / "manifest.json").write_text('{"format": NaN}'), "cannot be read"),
    "a long number": (lambda f: (f / "manifest.json").write_text("9" * 10_000), "cannot be read"),
    "not UTF-8": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe{}"), "cannot be read"),
    "deep": (_deep, "cannot be read"),
    "without files": (manifest(lambda m: m.update(files={})), "'files' is malformed"),
    "with a list of files": (manifest(lambda m: m.update(files=["step.onnx"])), "'files' is malformed"),
    "with an odd digest": (manifest(lambda m: m["files"]["step.onnx"].update(sha256=7)), "does not match its digest"),
    "with an odd size": (manifest(lambda m: m["files"]["step.onnx"].update(bytes="many")), "the manifest says many"),
    "without programs": (manifest(lambda m: m.update(programs={})), "'programs' is malformed"),
    "with an odd program": (manifest(lambda m: m.update(programs={"step": 3})), "'programs.step' is malformed"),
    "with an odd name": (manifest(lambda m: m.update(name=["x"])), "'name' is malformed"),
    "with odd labels": (manifest(lambda m: m.update(labels={"a": 1})), "'labels' is malformed"),
    "with an odd rate": (manifest(lambda m: m.update(frame_rate_hz=-1)), "'frame_rate_hz' is malformed"),
    "with an endless rate": (manifest(lambda m: m.update(frame_rate_hz=10**400)), "'frame_rate_hz' is malformed"),
    "without inputs": (stream(lambda s: s.update(inputs=[])), "inputs' is malformed"),
    "with a negative shape": (stream(lambda s: s["inputs"][0].update(shape=[1, 1, -40])), "shape.2' is malformed"),
    "with a giant shape": (stream(lambda s: s["states"][0].update(shape=[1, 2**62])), "shape.1' is malformed"),
    "with no frames a step": (stream(lambda s: s.update(frames_per_step=0)), "frames_per_step' is malformed"),
    "with many frames a step": (stream(lambda s: s.update(frames_per_step=2**30)), "shape' is malformed"),
    "with an odd dtype": (stream(lambda s: s["inputs"][0].update(dtype="object")), "dtype' is malformed"),
    "with an unknown key": (stream(lambda s: s.update(code="import os")), "code' is malformed"),
    "with a nameless state": (stream(lambda s: s["states"][0].update(name=None)), "name' is malformed"),
    "with a scale of zero": (
        stream(lambda s: s["states"][0].update(dtype="int8", quant={"scale": 0, "zero_point": 0})),
        "scale' is malformed",
    ),
    "with an odd front end": (manifest(lambda m: m["front_end"].update(rate_hz=-16000)), "front end"),
    "with a giant window": (manifest(lambda m: m["front_end"].update(window_samples=2**40)), "front end"),
    "with odd certificate steps": (manifest(lambda m: m["certificate"].update(steps=[])), "certificate.steps"),
    "with an odd bound": (
        manifest(lambda m: m["certificate"]["made"]["onnx"]["bounds"][0].update(elsewhere="far")),
        "elsewhere' is malformed",
    ),
    "with a certificate elsewhere": (
        manifest(lambda m: m["certificate"].update(file="/etc/passwd")),
        "certificate.file' is malformed",
    ),
}


def _pipe(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def _folder(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def _link(name: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return spoil


def _huge(name: str) -> Spoil:
    """Return what makes a file of a terabyte that takes no room on the disk."""

    def spoil(folder: Path) -> None:
        os.truncate(folder / name, 2**40)

    return spoil


def _alone(target: Callable[[Path], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        shutil.rmtree(folder)
        target(folder)

    return spoil


PLACES: dict[str, tuple[Spoil, str]] = {
    "nothing": (_alone(lambda f: None), "expected the folder"),
    "an empty folder": (_alone(lambda f: f.mkdir()), "has no manifest.json"),
    "a file": (_alone(lambda f: f.write_bytes(b"artifact")), "expected a folder"),
    "a pipe": (_alone(os.mkfifo), "expected a folder"),
    "a link to nothing": (_alone(lambda f: f.symlink_to("nowhere")), "expected the folder"),
    "a link to itself": (_alone(lambda f: f.symlink_to(f)), "expected the folder"),
    "a manifest that is a pipe": (_pipe("manifest.json"), "not a file"),
    "a model that is a pipe": (_pipe("step.onnx"), "not a file"),
    "a certificate that is a pipe": (_pipe("certificate.npz"), "not a file"),
    "a manifest that is a folder": (_folder("manifest.json"), "not a file"),
    "a model that is a folder": (_folder("step.tflite"), "not a file"),
    "a manifest linked to itself": (_link("manifest.json", "manifest.json"), "cannot be read"),
    "a model linked to a device": (_link("step.onnx", "/dev/zero"), "not a file"),
    "a model linked elsewhere": (_link("step.onnx", "/etc/hostname"), "the manifest says"),
    "a manifest of a terabyte": (_huge("manifest.json"), "bytes"),
    "a model of a terabyte": (_huge("step.tflite"), "the manifest says"),
    "a file above": (_escape("../secret"), "not the name of a file in the artifact"),
    "a file at the root": (_escape("/etc/passwd"), "not the name of a file in the artifact"),
    "a file of no name": (_escape(""), "not the name of a file in the artifact"),
    "a file named by a dot": (_escape(".."), "not the name of a file in the artifact"),
    "a file with a zero in its name": (_escape("a\0b"), "not the name of a file in the artifact"),
    "a file with a long name": (_escape("a" * 300), "cannot be read"),
}


# files that were made so, and signed


def _onnx(change: Callable[[onnx.ModelProto], object], **beside: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        model = onnx.load(folder / "step.onnx")
        change(model)
        (folder / "step.onnx").write_bytes(model.SerializeToString())
        edit_manifest(folder, _onnx_alone)

    return spoil


def _onnx_alone(m: dict[str, Any]) -> None:
    """Leave the other format out, so that this one is met."""
    for section in (m["programs"]["step"], m["certificate"]["made"]):
        del section["tflite"]
    m["certificate"]["file"] = "certificate.npz"


def _external(location: str) -> Callable[[onnx.ModelProto], object]:
    """Return what puts a constant into a file outside the artifact."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.name == "signs")
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "8")):
            tensor.external_data.add(key=key, value=value)

    return change


def _node(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in model.graph.node if node.op_type == op_type)
    return found


def _endless_tflite(folder: Path) -> None:
    """Call the first operator a WHILE; it is not asked of what."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs((folder / "step.tflite").read_bytes()))
    model.operatorCodes[0].builtinCode = schema.BuiltinOperator.WHILE
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    (folder / "step.tflite").write_bytes(bytes(builder.Output()))
    edit_manifest(folder, lambda m: None)


def _constant(model: onnx.ModelProto, name: str, array: Any) -> None:
    tensor = next(item for item in model.graph.initializer if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), name))


def _giant(model: onnx.ModelProto) -> None:
    """Let the step fill 4 TB before it gives anything."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**20, 2**20]), "much"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["much"], ["ones"]))
    model.graph.node.insert(1, helper.make_node("ReduceMax", ["ones"], ["one"], keepdims=0))
    node = _node(model, "Sub")
    model.graph.node.append(helper.make_node("Add", ["above_", "one"], ["above"]))
    node.output[0] = "above_"


def _cycle(model: onnx.ModelProto) -> None:
    _node(model, "Reshape").input[0] = "y"


def _shape(size: int) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = size

    return change


def _npz(**arrays: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "certificate.npz"
        loaded = {**np.load(path), **{name.replace("_", "."): array for name, array in arrays.items()}}
        buffer = io.BytesIO()
        np.savez(buffer, **loaded)
        path.write_bytes(buffer.getvalue())
        edit_manifest(folder, lambda m: None)

    return spoil


def _zip(*members: tuple[str, bytes]) -> Spoil:
    def spoil(folder: Path) -> None:
        with zipfile.ZipFile(folder / "certificate.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                archive.writestr(name, data)
        edit_manifest(folder, lambda m: None)

    return spoil


def _bomb(folder: Path) -> None:
    """Let a member claim a terabyte."""
    with zipfile.ZipFile(folder / "certificate.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.0.npy", bytes(2**16))
        archive.filelist[0].file_size = 2**40
    edit_manifest(folder, lambda m: None)


def _header(shape: str) -> bytes:
    """Return an `.npy` file that claims a shape and has no data."""
    text = f"{{'descr': '<i2', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


SIGNED: dict[str, tuple[Spoil, str]] = {
    "external data above": (_onnx(_external("../secret")), "cannot be opened"),
    "external data at the root": (_onnx(_external("/etc/hostname")), "cannot be opened"),
    "external data in a device": (_onnx(_external("/dev/zero")), "cannot be opened"),
    "external data that is the manifest": (_onnx(_external("manifest.json")), ""),
    "an operator of one's own": (_onnx(lambda m: setattr(_node(m, "Mul"), "domain", "evil")), "cannot be opened"),
    "an operator that is not": (_onnx(lambda m: setattr(_node(m, "Mul"), "op_type", "Rm")), "cannot be opened"),
    "a future operator set": (_onnx(lambda m: setattr(m.opset_import[0], "version", 999)), "cannot be opened"),
    "a future format": (_onnx(lambda m: setattr(m, "ir_version", 999)), "cannot be opened"),
    "no graph": (_onnx(lambda m: m.ClearField("graph")), "cannot be opened"),
    "a circle": (_onnx(_cycle), "cannot be opened"),
    "a loop without end": (_onnx(endless), "may never end"),
    "a function that calls itself": (_onnx(recursive), "it has functions of its own"),
    "a loop without end in TFLite": (_endless_tflite, "it has the operator WHILE"),
    "terabytes": (_onnx(_giant), ""),
    "another shape": (_onnx(_shape(41)), ""),
    "a giant input": (_onnx(_shape(2**40)), ""),
    "a negative input": (_onnx(_shape(-3)), ""),
    "other weights": (_onnx(lambda m: _constant(m, "signs", np.array([[2, -1]], np.float32))), "is not bit for bit"),
    "weights that are NaN": (
        _onnx(lambda m: _constant(m, "signs", np.array([[2, np.nan]], np.float32))),
        "is not bit for bit",
    ),
    "weights of another shape": (_onnx(lambda m: _constant(m, "rest", np.ones((7, 3), np.float32))), ""),
    "weights of another type": (_onnx(lambda m: _constant(m, "rest", np.ones(1))), "cannot be opened"),
    "text for a model": (content("step.onnx", lambda _: b"import os", known=True), "cannot be opened"),
    "TFLite for ONNX": (content("step.onnx", lambda _: b"TFL3" * 99, known=True), "cannot be opened"),
    "ONNX for TFLite": (content("step.tflite", lambda _: b"\x08\x09" * 99, known=True), "cannot be opened"),
    "zeros for TFLite": (content("step.tflite", lambda old: bytes(len(old)), known=True), "cannot be opened"),
    "a bomb": (_bomb, "unpacks to more than 256 MB"),
    "pickled frames": (_npz(frames_0=np.array([{}], object)), "cannot be read"),
    "frames of another width": (_npz(frames_0=np.zeros((8, 41), np.int16)), "frames.0"),
    "golden NaN": (_npz(onnx_0=np.full((4, 1, 2), np.nan, np.float32)), "onnx.0"),
    "no members": (_zip(), "lacks the array"),
    "a member above": (_zip(("../../frames.0.npy", b"")), ""),
    "endless frames": (_zip(("frames.0.npy", _header("(1000000000000, 40)"))), "cannot be read"),
    "negative frames": (_zip(("frames.0.npy", _header("(-1, 40)"))), "cannot be read"),
    "code for a shape": (_zip(("frames.0.npy", _header("__import__('os').getpid()"))), "cannot be read"),
}

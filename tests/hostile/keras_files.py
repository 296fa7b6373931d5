"""Keras files that are damaged, make no sense, or bring code."""

from __future__ import annotations

import base64
import io
import json
import marshal
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.hostile.case import Bases, Case, Prepare, flips, truncations

CANARY = "canary"
"""The file that code in a model would write, in the folder that the command runs in."""

Members = dict[str, bytes]


def converted(make: Callable[[bytes], bytes], suffix: str = ".keras") -> Prepare:
    """Return what writes a model made of the sound one's bytes, and converts it."""

    def prepare(folder: Path, bases: Bases) -> list[object]:
        sound = bases.h5 if suffix == ".h5" else bases.keras
        (folder / f"model{suffix}").write_bytes(make(sound.read_bytes()))
        (folder / "evil.py").write_text(f"open({CANARY!r}, 'w').close()\n")
        return ["convert", folder / f"model{suffix}", "-o", folder / "out", "--to", "onnx", "-q"]

    return prepare


def members(edit: Callable[[Members], object]) -> Callable[[bytes], bytes]:
    """Return what changes the files in the archive."""

    def change(content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = {name: archive.read(name) for name in archive.namelist()}
        edit(found)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in found.items():
                archive.writestr(name, data)
        return buffer.getvalue()

    return change


def config(edit: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Return what changes the model's configuration."""

    def change(found: Members) -> None:
        values = json.loads(found["config.json"])
        edit(values)
        found["config.json"] = json.dumps(values).encode()

    return members(change)


def layer(edit: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Return what changes the layer GRU: an object with class_name, module and config."""
    return config(lambda values: edit(values["config"]["layers"][1]))


def settings(**changes: Any) -> Callable[[bytes], bytes]:
    """Return what changes settings of the layer GRU."""
    return layer(lambda item: item["config"].update(changes))


def weights(edit: Callable[[h5py.File], object]) -> Callable[[bytes], bytes]:
    """Return what changes the weights."""

    def change(found: Members) -> None:
        buffer = io.BytesIO(found["model.weights.h5"])
        with h5py.File(buffer, "r+") as file:
            edit(file)
        found["model.weights.h5"] = buffer.getvalue()

    return members(change)


def _kernel(file: h5py.File) -> Any:
    found: list[Any] = []
    file.visititems(lambda name, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found[0]


def _with_weight(value: float) -> Callable[[bytes], bytes]:
    def edit(file: h5py.File) -> None:
        _kernel(file)[0, 0] = value

    return weights(edit)


def _reshaped(file: h5py.File) -> None:
    kernel = _kernel(file)
    parent, name = kernel.parent, kernel.name.rpartition("/")[2]
    del parent[name]
    parent[name] = np.zeros((3, 3), np.float32)


def _linked_outside(file: h5py.File) -> None:
    kernel = _kernel(file)
    parent, name = kernel.parent, kernel.name.rpartition("/")[2]
    del parent[name]
    parent[name] = h5py.ExternalLink("/etc/hostname", "/kernel")


def _stored_outside(file: h5py.File) -> None:
    kernel = _kernel(file)
    parent, name, shape = kernel.parent, kernel.name.rpartition("/")[2], kernel.shape
    del parent[name]
    parent.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def cases() -> Iterator[tuple[str, Case]]:
    """Yield every case with its name."""
    for suffix in (".keras", ".h5"):
        for name, change in truncations(8):
            yield f"{suffix} {name}", Case(converted(change, suffix))
        for seed in range(4):
            yield f"{suffix} 64 bits {seed} flipped", Case(converted(flips(seed, 64), suffix))
    for name, (change, says) in {**ARCHIVES, **CONFIGS, **WEIGHTS, **CODE}.items():
        yield f"keras {name}", Case(converted(change), says)
    for name, (change, says) in H5.items():
        yield f"h5 {name}", Case(converted(change, ".h5"), says)
    for name, (prepare, says) in PLACES.items():
        yield f"keras at {name}", Case(prepare, says)


def _zip_claiming(size: int) -> Callable[[bytes], bytes]:
    """Return what makes a member claim how large it is."""

    def change(content: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
                new.filelist[-1].file_size = size
        return buffer.getvalue()

    return change


def _encrypted(content: bytes) -> bytes:
    return content.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")


def _bomb(found: Members) -> None:
    found["config.json"] = b"[" + b"0," * 40_000_000 + b"0]"


def _zipped_bomb(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (300 * 2**20))
    return buffer.getvalue()


ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "of nothing": (lambda _: b"", ""),
    "of text": (lambda _: b"import os\n" * 100, ""),
    "of zeros": (lambda old: bytes(len(old)), ""),
    "without members": (members(lambda m: [m.pop(name) for name in list(m)]), ""),
    "without a configuration": (members(lambda m: m.pop("config.json")), ""),
    "without weights": (members(lambda m: m.pop("model.weights.h5")), ""),
    "with weights that are none": (members(lambda m: m.update({"model.weights.h5": b"weights"})), ""),
    "with a configuration that is none": (members(lambda m: m.update({"config.json": b"{"})), ""),
    "with an empty configuration": (members(lambda m: m.update({"config.json": b"{}"})), ""),
    "with a list for a configuration": (members(lambda m: m.update({"config.json": b"[1, 2]"})), ""),
    "with null for a configuration": (members(lambda m: m.update({"config.json": b"null"})), ""),
    "with a deep configuration": (members(lambda m: m.update({"config.json": b'{"a":' * 100_000})), ""),
    "with a deep configuration that ends": (
        members(lambda m: m.update({"config.json": b'{"a":' * 50_000 + b"1" + b"}" * 50_000})), "",
    ),
    "with a configuration not in UTF-8": (members(lambda m: m.update({"config.json": b"\xff\xfe\x00"})), ""),
    "with metadata that is none": (members(lambda m: m.update({"metadata.json": b"[", "config.json": b"["})), ""),
    "claiming terabytes": (_zip_claiming(2**41), ""),
    "that is a bomb": (_zipped_bomb, ""),
    "encrypted": (_encrypted, ""),
    "with members above": (members(lambda m: [m.update({f"../../{n}": m.pop(n)}) for n in list(m)]), ""),
}  # fmt: skip

CONFIGS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "without layers": (config(lambda c: c["config"].update(layers=[])), ""),
    "without inputs": (config(lambda c: c["config"].update(input_layers=[])), ""),
    "with layers that are null": (config(lambda c: c["config"].update(layers=[None])), ""),
    "with layers that are a word": (config(lambda c: c["config"].update(layers="GRU")), ""),
    "with two layers of one name": (config(lambda c: c["config"]["layers"].append(c["config"]["layers"][1])), ""),
    "with an output of no layer": (config(lambda c: c["config"].update(output_layers=[["nothing", 0, 0]])), ""),
    "with a circle": (
        config(lambda c: c["config"]["layers"][1].update(inbound_nodes=c["config"]["layers"][2]["inbound_nodes"])), "",
    ),
    "with a layer fed by nothing": (layer(lambda item: item.update(inbound_nodes=[])), ""),
    "with a layer fed by words": (layer(lambda item: item.update(inbound_nodes=["frames"])), ""),
    "with an unknown layer": (layer(lambda item: item.update(class_name="Gru")), ""),
    "with a nameless layer": (layer(lambda item: item.pop("class_name")), ""),
    "with no settings": (layer(lambda item: item.update(config=None)), ""),
    "with an unknown setting": (settings(evil=1), ""),
    "with no units": (settings(units=0), ""),
    "with negative units": (settings(units=-5), ""),
    "with half a unit": (settings(units=2.5), ""),
    "with units in words": (settings(units="many"), ""),
    "with a list of units": (settings(units=[5, 5]), ""),
    "with more units than weights": (settings(units=6), ""),
    "with a million units": (settings(units=10**6), ""),
    "with endless units": (settings(units=10**30), ""),
    "with NaN units": (settings(units=float("nan")), ""),
    "with an unknown activation": (settings(activation="relu7"), ""),
    "with a number for an activation": (settings(activation=3), ""),
    "with an odd dtype": (settings(dtype="object"), ""),
    "with a dtype of pairs": (settings(dtype="complex64"), ""),
    "with an input of words": (config(lambda c: c["config"]["layers"][0]["config"].update(dtype="string")), ""),
    "with a giant input": (
        config(lambda c: c["config"]["layers"][0]["config"].update(batch_shape=[None, None, 2**40])), "",
    ),
    "with a negative input": (
        config(lambda c: c["config"]["layers"][0]["config"].update(batch_shape=[None, None, -6])), "",
    ),
    "with a flat input": (config(lambda c: c["config"]["layers"][0]["config"].update(batch_shape=[None])), ""),
    "with an input of words for sizes": (
        config(lambda c: c["config"]["layers"][0]["config"].update(batch_shape=["a", "b"])), "",
    ),
    "of another class": (config(lambda c: c.update(class_name="Optimizer")), ""),
    "of no class": (config(lambda c: c.pop("class_name")), ""),
    "that is a layer": (config(lambda c: c.update(c["config"]["layers"][1])), ""),
}  # fmt: skip

WEIGHTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "with a NaN": (_with_weight(float("nan")), "NaN"),
    "with an infinity": (_with_weight(float("inf")), "NaN or infinity"),
    "with weights of another shape": (weights(_reshaped), ""),
    "with weights linked outside": (weights(_linked_outside), ""),
    "with weights stored outside": (weights(_stored_outside), ""),
    "with weights that are empty": (weights(lambda file: [file.pop(name) for name in list(file)]), ""),
}


def _lambda(file: Path = Path(CANARY)) -> dict[str, Any]:
    """Return a Lambda layer whose code writes the canary."""
    code = compile(f"open({str(file)!r}, 'w').close() or frames", "evil", "eval")
    text = base64.b64encode(marshal.dumps(code)).decode()
    function = {"class_name": "__lambda__", "config": {"code": text, "defaults": None, "closure": None}}
    return {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "evil", "function": function}}


def _as(**item: Any) -> Callable[[bytes], bytes]:
    """Return what puts another object in the place of the layer GRU, which keeps its inputs."""
    return layer(lambda old: old.update({"registered_name": None, "build_config": {}, **item}))


def _function(module: str, name: str) -> dict[str, Any]:
    return {"class_name": "function", "module": module, "config": name, "registered_name": name}


CODE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "with a lambda": (_as(**_lambda()), "'evil' (Lambda)"),
    "with a lambda by another name": (_as(**{**_lambda(), "module": "builtins"}), ""),
    "with a module of one's own": (_as(module="evil", class_name="Layer"), "not part of Keras"),
    "with the operating system": (_as(module="os", class_name="system", config={"command": f"touch {CANARY}"}), ""),
    "with a subprocess": (_as(module="subprocess", class_name="Popen", config={"args": ["touch", CANARY]}), ""),
    "with builtins": (_as(module="builtins", class_name="exec", config={"source": f"open('{CANARY}','w')"}), ""),
    "with a function of builtins": (settings(activation=_function("builtins", "exec")), ""),
    "with a function of os": (settings(activation=_function("os", "system")), ""),
    "with a function of one's own": (settings(activation=_function("evil", "main")), ""),
    "with a module below Keras that is not": (_as(module="keras.evil", class_name="Layer"), ""),
    "with a module like Keras": (_as(module="keras_evil", class_name="Layer"), ""),
    "with a tool of Keras": (settings(activation=_function("keras.utils", "get_file")), ""),
    "with a registered name": (_as(module=None, class_name="Evil", registered_name="evil>Evil"), ""),
    "with PyTorch": (
        _as(module="keras.layers", class_name="TorchModuleWrapper", config={"module": "gASV", "name": "evil"}), "",
    ),
    "with a vocabulary elsewhere": (
        _as(module="keras.layers", class_name="StringLookup", config={"vocabulary": "/etc/passwd", "name": "evil"}), "",
    ),
    "with a saved model elsewhere": (
        _as(module="keras.layers", class_name="TFSMLayer", config={"filepath": "/etc", "name": "evil"}), "",
    ),
    "with an initializer of one's own": (
        settings(kernel_initializer={"module": "evil", "class_name": "Evil", "config": {}}), "",
    ),
    "with a constraint of one's own": (
        settings(kernel_constraint={"module": "os", "class_name": "popen", "config": {"cmd": f"touch {CANARY}"}}), "",
    ),
    "with a policy of one's own": (settings(dtype={"module": "evil", "class_name": "Policy", "config": {}}), ""),
    "with a number that is code": (
        config(lambda c: c["config"].update(name={"class_name": "__lambda__", "config": {"code": "x"}})), "",
    ),
}  # fmt: skip


def _h5(edit: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Return what changes the configuration in a file of the older format."""

    def change(content: bytes) -> bytes:
        buffer = io.BytesIO(content)
        with h5py.File(buffer, "r+") as file:
            values = json.loads(file.attrs["model_config"])
            edit(values)
            file.attrs["model_config"] = json.dumps(values)
        return buffer.getvalue()

    return change


def _h5_layer(**item: Any) -> Callable[[bytes], bytes]:
    return _h5(lambda values: values["config"]["layers"][1].update(item))


def _h5_text(text: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        buffer = io.BytesIO(content)
        with h5py.File(buffer, "r+") as file:
            file.attrs["model_config"] = text
        return buffer.getvalue()

    return change


def _h5_lambda() -> dict[str, Any]:
    code = base64.b64encode(marshal.dumps(compile(f"open({CANARY!r}, 'w').close()", "evil", "eval"))).decode()
    settings_ = {"name": "evil", "function": [code, None, None], "function_type": "lambda", "module": "evil"}
    return {"class_name": "Lambda", "config": settings_, "module": "keras.layers"}


H5: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "without a configuration": (_h5_text(""), ""),
    "with a configuration that is none": (_h5_text("{"), ""),
    "with a deep configuration": (_h5_text('{"a":' * 10_000), ""),
    "with a lambda": (_h5_layer(**_h5_lambda()), ""),
    "with a module of one's own": (_h5_layer(module="evil", class_name="Layer"), ""),
    "with builtins": (_h5_layer(module="builtins", class_name="exec"), ""),
    "of text": (lambda _: b"\x89HDF\r\n\x1a\n" + b"import os" * 99, ""),
    "that is an archive": (lambda _: b"PK\x05\x06" + bytes(18), ""),
}


def _place(put: Callable[[Path, Bases], object], *arguments: str) -> Prepare:
    def prepare(folder: Path, bases: Bases) -> list[object]:
        put(folder / "model.keras", bases)
        return ["convert", folder / (arguments[0] if arguments else "model.keras"), "-o", folder / "out", "-q"]

    return prepare


def _run_folder(**files: bytes) -> Prepare:
    """Return the folder of a training run, with these files beside its model."""

    def prepare(folder: Path, bases: Bases) -> list[object]:
        (folder / "run").mkdir()
        shutil.copy(bases.keras, folder / "run" / "model.keras")
        for name, data in files.items():
            (folder / "run" / name.replace("_", ".")).write_bytes(data)
        return ["convert", folder / "run", "-o", folder / "out", "--to", "onnx", "-q"]

    return prepare


PLACES: dict[str, tuple[Prepare, str]] = {
    "no model": (_place(lambda path, bases: None), ""),
    "a model that is a folder": (_place(lambda path, bases: path.mkdir()), ""),
    "a model that is a pipe": (_place(lambda path, bases: os.mkfifo(path)), ""),
    "a model linked to nothing": (_place(lambda path, bases: path.symlink_to("nowhere")), ""),
    "a model linked to itself": (_place(lambda path, bases: path.symlink_to(path)), ""),
    "a model linked to a device": (_place(lambda path, bases: path.symlink_to("/dev/zero")), ""),
    "a model of a long name": (_place(lambda path, bases: None, "m" * 300 + ".keras"), ""),
    "a model of another kind": (_place(lambda path, bases: None, "model.pickle"), ""),
    "a run with facts that are none": (_run_folder(run_json=b"{"), "not valid JSON"),
    "a run with deep facts": (_run_folder(run_json=b"[" * 100_000), "not valid JSON"),
    "a run with facts not in UTF-8": (_run_folder(run_json=b"\xff\xfe"), "not valid JSON"),
    "a run with a list of facts": (_run_folder(run_json=b"[]"), "expected a JSON object"),
    "a run with an odd front end": (_run_folder(run_json=b'{"front_end": 7}'), ""),
    "a run with odd labels": (_run_folder(run_json=b'{"labels": 7}'), ""),
    "a run with examples that are none": (_run_folder(calibration_npz=b"PK"), "calibration.npz"),
    "a run with a dev set that is none": (_run_folder(dev_npz=b"\x93NUMPY"), "dev.npz"),
}

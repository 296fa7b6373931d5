"""SavedModel folders that are damaged, make no sense, or want more than to compute."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hostile.case import Bases, Case, Prepare, truncations

Spoil = Callable[[Path], object]
DT_FLOAT, DT_STRING = 1, 7


def cases() -> Iterator[tuple[str, Case]]:
    """Yield every case with its name."""
    for name, change in truncations(5):
        yield f"SavedModel {name}", Case(converted(_graph_file(change)))
    for op in ("WriteFile", "ReadFile", "PyFunc", "EagerPyFunc", "SaveV2", "TcpServer"):
        yield f"SavedModel with {op}", Case(converted(message(_with_operator(op))), f"is {op}, which is not among")
    for name, (spoil, says) in FOLDERS.items():
        yield f"SavedModel {name}", Case(converted(spoil), says)


def converted(spoil: Spoil) -> Prepare:
    """Return what spoils a copy of the sound folder, and converts it."""

    def prepare(folder: Path, bases: Bases) -> list[object]:
        shutil.copytree(bases.saved, folder / "model")
        spoil(folder / "model")
        return ["convert", folder / "model", "-o", folder / "out", "--to", "onnx", "-q"]

    return prepare


def _graph_file(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "saved_model.pb").write_bytes(change((folder / "saved_model.pb").read_bytes()))

    return spoil


def message(edit: Callable[[Any], object]) -> Spoil:
    """Return what changes the graph with its signatures and objects (`MetaGraphDef`)."""

    def change(content: bytes) -> bytes:
        from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

        model = SavedModel.FromString(content)
        edit(model.meta_graphs[0])
        return bytes(model.SerializeToString())

    return _graph_file(change)


def _call(meta: Any) -> Any:
    """Return the node that calls the function that is served."""
    name = meta.signature_def["serving_default"].outputs["output_0"].name.partition(":")[0]
    return next(node for node in meta.graph_def.node if node.name == name)


def _with_operator(op: str) -> Callable[[Any], None]:
    """Return what lets an operator run before the model does."""

    def edit(meta: Any) -> None:
        meta.graph_def.node.add(name="more", op=op)
        _call(meta).input.append("^more")

    return edit


def _recursive(meta: Any) -> None:
    """Let the function that is served call itself."""
    call = _call(meta)
    name = call.attr["f"].func.name
    function = next(item for item in meta.graph_def.library.function if item.signature.name == name)
    inner = next(node for node in function.node_def if "f" in node.attr)
    inner.attr["f"].func.name = name


def _circle(meta: Any) -> None:
    meta.graph_def.node.add(name="one", op="NoOp", input=["^other"])
    meta.graph_def.node.add(name="other", op="NoOp", input=["^one"])
    _call(meta).input.append("^one")


def _terabytes(meta: Any) -> None:
    """Serve a constant of 4 TB too."""
    node = meta.graph_def.node.add(name="giant", op="Const")
    node.attr["dtype"].type = DT_FLOAT
    tensor = node.attr["value"].tensor
    tensor.dtype = DT_FLOAT
    tensor.float_val.append(1.0)
    for _ in range(2):
        tensor.tensor_shape.dim.add().size = 2**20
    _signature(meta).outputs["output_1"].name = "giant:0"


def _signature(meta: Any) -> Any:
    return meta.signature_def["serving_default"]


def _input(meta: Any) -> Any:
    return next(iter(_signature(meta).inputs.values()))


def _bound(meta: Any) -> Any:
    return meta.object_graph_def.concrete_functions[_call(meta).attr["f"].func.name].bound_inputs


def _values(name: str, change: Callable[[Path], object]) -> Spoil:
    return lambda folder: change(next((folder / "variables").glob(name)))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGED = "its values cannot be read"
FOLDERS: dict[str, tuple[Spoil, str]] = {
    "of text": (_graph_file(lambda _: b"import os"), "no signature serving_default"),
    "of a terabyte": (lambda folder: os.truncate(folder / "saved_model.pb", 2**40), "cannot be read as a SavedModel"),
    "that is a pipe": (lambda folder: _pipe(folder / "saved_model.pb"), ""),
    "with a pipe for layers": (lambda folder: os.mkfifo(folder / "keras_metadata.pb"), "no model of layers"),
    "that serves nothing": (message(lambda meta: meta.signature_def.clear()), "no signature serving_default"),
    "without outputs": (message(lambda meta: _signature(meta).outputs.clear()), ""),
    "without inputs": (message(lambda meta: _signature(meta).inputs.clear()), ""),
    "with an output from nowhere": (
        message(lambda meta: setattr(_signature(meta).outputs["output_0"], "name", "nowhere:0")),
        "cannot be read as a SavedModel",
    ),
    "with an output out of range": (
        message(lambda meta: setattr(_signature(meta).outputs["output_0"], "name", f"{_call(meta).name}:99")),
        "cannot be brought to ONNX",
    ),
    "with text for frames": (
        message(lambda meta: setattr(_input(meta), "dtype", DT_STRING)),
        "cannot be brought to ONNX",
    ),
    "with giant frames": (
        message(lambda meta: setattr(_input(meta).tensor_shape.dim[2], "size", 2**60)),
        "cannot be brought to ONNX",
    ),
    "with an unknown object": (message(lambda meta: _bound(meta).__setitem__(0, 10**6)), "cannot be read as"),
    "with too many variables": (message(lambda meta: _bound(meta).extend([0] * 99)), "cannot be read as"),
    "without objects": (message(lambda meta: meta.object_graph_def.Clear()), "cannot be read as"),
    "that calls itself": (message(_recursive), "was tried in a process of its own, and crashed it"),
    "with terabytes": (message(_terabytes), "its node giant is a constant of [1048576, 1048576] numbers"),
    "with a circle": (message(_circle), "cannot be brought to ONNX"),
    "without values": (lambda folder: shutil.rmtree(folder / "variables"), DAMAGED),
    "with half its values": (_values("*.data*", lambda path: os.truncate(path, path.stat().st_size // 2)), DAMAGED),
    "with values in a pipe": (_values("*.data*", _pipe), DAMAGED),
    "with a pipe for an index": (_values("*.index", _pipe), DAMAGED),
    "with nonsense for an index": (_values("*.index", lambda path: path.write_bytes(b"nonsense")), DAMAGED),
}

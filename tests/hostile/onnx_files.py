"""ONNX files that are damaged, make no sense, never end, or reach for other files."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.case import Bases, Case, Prepare, flips, truncations

Change = Callable[[onnx.ModelProto], object]
FEATURES, UNITS = 6, 4


def sound() -> onnx.ModelProto:
    """Return a model of LSTM and MatMul over `(time, batch, features)`, as exporters write it."""
    random = np.random.default_rng(0)
    constants = {
        "W": random.normal(size=(1, 4 * UNITS, FEATURES)).astype(np.float32),
        "R": random.normal(size=(1, 4 * UNITS, UNITS)).astype(np.float32),
        "one": np.array([1]),
        "out": random.normal(size=(UNITS, 2)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("LSTM", ["x", "W", "R"], ["h"], name="lstm", hidden_size=UNITS),
            helper.make_node("Squeeze", ["h", "one"], ["flat"], name="squeeze"),
            helper.make_node("MatMul", ["flat", "out"], ["y"], name="product"),
        ],
        "words",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", "batch", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["time", "batch", 2])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def content(make: Callable[[bytes], bytes], name: str = "model.onnx") -> Prepare:
    def prepare(folder: Path, bases: Bases) -> list[object]:
        (folder / name).write_bytes(make(bases.onnx.read_bytes()))
        return ["convert", folder / name, "-o", folder / "out", "--to", "onnx", "-q"]

    return prepare


def changed(change: Change) -> Prepare:
    def make(old: bytes) -> bytes:
        model = onnx.load_from_string(old)
        change(model)
        new: bytes = model.SerializeToString()
        return new

    return content(make)


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(item for item in model.graph.node if item.name == name)
    return found


def weight(name: str, array: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), name))

    return change


def claim(name: str, *dims: int) -> Change:
    """Return what lets a weight claim a shape that its data do not have."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.name == name)
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


def outside(location: str, length: int = 96) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.name == "out")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)

    return change


def attribute(name: str, value: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        lstm = node(model, "lstm")
        kept = [item for item in lstm.attribute if item.name != name]
        del lstm.attribute[:]
        lstm.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def _body(inner: onnx.GraphProto | None, depth: int) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(f"v{depth}", TensorProto.FLOAT, None)
    if inner is None:
        return helper.make_graph([helper.make_node("Identity", ["y0"], [f"v{depth}"])], f"g{depth}", [], [value])
    choice = helper.make_node("If", ["yes"], [f"v{depth}"], then_branch=inner, else_branch=inner)
    return helper.make_graph([choice], f"g{depth}", [], [value])


def nested(depth: int) -> Change:
    """Return what puts an If into an If and so on, each twice: 2 ** depth ways."""

    def change(model: onnx.ModelProto) -> None:
        graph = None
        for level in range(depth):
            graph = _body(graph, level)
        node(model, "product").output[0] = "y0"
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        model.graph.node.append(helper.make_node("If", ["yes"], ["y"], then_branch=graph, else_branch=graph))

    return change


def _put_behind(model: onnx.ModelProto) -> None:
    """Call y0 what was the output y."""
    next(item for item in model.graph.node if "y" in item.output).output[0] = "y0"


def endless(model: onnx.ModelProto) -> None:
    """Add a loop of 2 ** 62 rounds before the output y."""
    names = ["round", "go", "old"]
    kinds = [TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT]
    shapes: list[list[int] | None] = [[], [], None]
    inputs = [helper.make_tensor_value_info(*item) for item in zip(names, kinds, shapes, strict=True)]
    outputs = [helper.make_tensor_value_info("still", TensorProto.BOOL, []),
               helper.make_tensor_value_info("new", TensorProto.FLOAT, None)]  # fmt: skip
    nodes = [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Sin", ["old"], ["new"])]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    _put_behind(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "rounds"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("Loop", ["rounds", "yes", "y0"], ["y"], body=body))


def recursive(model: onnx.ModelProto) -> None:
    """Let a function of the model call itself."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)]
    call = helper.make_node("Again", ["a"], ["b"], domain="evil")
    model.functions.append(helper.make_function("evil", "Again", ["a"], ["b"], [call], opsets))
    model.opset_import.append(helper.make_opsetid("evil", 1))
    _put_behind(model)
    model.graph.node.append(helper.make_node("Again", ["y0"], ["y"], domain="evil"))


def much(model: onnx.ModelProto) -> None:
    """Add 4 TB of ones to what comes out."""
    node(model, "product").output[0] = "y0"
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**20, 2**20]), "sizes"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["sizes"], ["ones"]))
    model.graph.node.append(helper.make_node("ReduceMax", ["ones"], ["one_"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["y0", "one_"], ["y"]))


def large(operator: str, *dims: int) -> Change:
    """Return what adds the largest of 100 GB of numbers, as an operator makes them of one."""

    def change(model: onnx.ModelProto) -> None:
        node(model, "product").output[0] = "y0"
        model.graph.initializer.append(numpy_helper.from_array(np.array(dims), "sizes"))
        model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "single"))
        model.graph.node.append(helper.make_node(operator, ["single", "sizes"], ["giant"]))
        model.graph.node.append(helper.make_node("ReduceMax", ["giant"], ["largest"], keepdims=0))
        model.graph.node.append(helper.make_node("Add", ["y0", "largest"], ["y"]))

    return change


def sizes(*dims: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, dims))

    return change


def of_type(kind: int) -> Change:
    return lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", kind)


def of_cells(model: onnx.ModelProto) -> None:
    """Give the LSTM cells of more than its units, as nn.LSTM(proj_size=...) has them."""
    for name, width in (("h0", UNITS), ("c0", 2 * UNITS)):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, width), np.float32), name))
    node(model, "lstm").input.extend(["", "", "h0", "c0"])


class _Canary:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch canary",)


def cases() -> Iterator[tuple[str, Case]]:
    """Yield every case with its name."""
    for name, change in truncations(8):
        yield f"onnx {name}", Case(content(change), "model.onnx")
    for seed in range(6):
        yield f"onnx 64 bits {seed} flipped", Case(content(flips(seed, 64)))
    for name, (prepare, says) in FILES.items():
        yield f"onnx {name}", Case(prepare, says)
    for name, edit in CHANGES.items():
        yield f"onnx {name}", Case(changed(edit))


FILES: dict[str, tuple[Prepare, str]] = {
    "of text": (content(lambda _: b"import os\n" * 50), "model.onnx"),
    "of zeros": (content(lambda old: bytes(len(old))), "model.onnx"),
    "that is pickled": (content(lambda _: pickle.dumps(_Canary())), "model.onnx"),
    "in JSON": (content(lambda _: b'{"irVersion": "9", "graph": {}}'), "model.onnx"),
    "that is a PyTorch file": (content(lambda _: pickle.dumps(_Canary()), "model.pt"), "model.pt"),
    "that is a pickle": (content(lambda _: pickle.dumps(_Canary()), "model.pkl"), "model.pkl"),
}

CHANGES: dict[str, Change] = {
    "without a graph": lambda m: m.ClearField("graph"),
    "without nodes": lambda m: m.graph.ClearField("node"),
    "without inputs": lambda m: m.graph.ClearField("input"),
    "without outputs": lambda m: m.graph.ClearField("output"),
    "without weights": lambda m: m.graph.ClearField("initializer"),
    "of opset 0": lambda m: setattr(m.opset_import[0], "version", 0),
    "of opset 999": lambda m: setattr(m.opset_import[0], "version", 999),
    "of a negative opset": lambda m: setattr(m.opset_import[0], "version", -5),
    "of no opset": lambda m: m.ClearField("opset_import"),
    "of format 999": lambda m: setattr(m, "ir_version", 999),
    "with an unknown operator": lambda m: setattr(node(m, "lstm"), "op_type", "LSTMX"),
    "with an operator of one's own": lambda m: setattr(node(m, "product"), "domain", "evil"),
    "with a circle": lambda m: node(m, "lstm").input.__setitem__(0, "y"),
    "with a node fed by itself": lambda m: node(m, "product").input.__setitem__(0, "y"),
    "with a missing value": lambda m: node(m, "product").input.__setitem__(0, "nothing"),
    "with a name twice": lambda m: node(m, "squeeze").output.__setitem__(0, "h"),
    "with a weight twice": lambda m: m.graph.initializer.append(m.graph.initializer[0]),
    "with a nameless node output": lambda m: node(m, "product").output.__setitem__(0, ""),
    "with an output from nowhere": lambda m: setattr(m.graph.output[0], "name", "nowhere"),
    "with a function that calls itself": recursive,
    "with a loop without end": endless,
    "with nested choices": nested(9),
    "with terabytes of ones": much,
    "that expands to 100 GB": large("Expand", 160_000, 160_000),
    "that repeats 100 GB": large("Tile", 25 * 10**9),
    "with cells of another size than its units": of_cells,
    "with a NaN": weight("out", np.full((UNITS, 2), np.nan, np.float32)),
    "with an infinity": weight("W", np.full((1, 4 * UNITS, FEATURES), np.inf, np.float32)),
    "with weights of another shape": weight("R", np.zeros((1, 3, 3), np.float32)),
    "with weights of another type": weight("W", np.zeros((1, 4 * UNITS, FEATURES))),
    "with weights that are words": weight("out", np.array([["a", "b"]] * UNITS)),
    "with weights that claim more": claim("out", 2**31, 2**31),
    "with weights of negative shape": claim("out", -4, -2),
    "with weights of no shape": claim("out"),
    "with weights above": outside("../secret"),
    "with weights at the root": outside("/etc/passwd"),
    "with weights in a device": outside("/dev/zero"),
    "with weights in itself": outside("model.onnx", 2**40),
    "with weights in nothing": outside(""),
    "with weights in a folder": outside("."),
    "with weights that are not there": outside("weights.bin"),
    "with weights of a zero in their name": outside("a\0b"),
    "with no units": attribute("hidden_size", 0),
    "with negative units": attribute("hidden_size", -4),
    "with many units": attribute("hidden_size", 2**40),
    "with units in words": attribute("hidden_size", "many"),
    "with an odd direction": attribute("direction", "sideways"),
    "with an odd activation": attribute("activations", ["Rm", "Tanh", "Tanh"]),
    "with too few activations": attribute("activations", ["Tanh"]),
    "with an odd layout": attribute("layout", 7),
    "with a clip of NaN": attribute("clip", float("nan")),
    "with a flat input": sizes(FEATURES),
    "with a giant input": sizes("time", "batch", 2**40),
    "with a negative input": sizes("time", "batch", -6),
    "with another input": sizes("time", "batch", FEATURES + 1),
    "with an input of words": of_type(TensorProto.STRING),
    "with an input of pairs": of_type(TensorProto.COMPLEX64),
    "with an input of no type": of_type(0),
    "with an input of an unknown type": of_type(99),
}

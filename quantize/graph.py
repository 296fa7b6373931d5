"""Building ONNX graphs, and walking one to build the next.

A pass never edits a graph: it reads one and builds another, so that a pass that fails leaves nothing half done.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from edgernn.errors import ConversionError
from edgernn.text import one_line

__all__ = [
    "IR_VERSION",
    "MICROSOFT",
    "ONE_STREAM",
    "OPSET",
    "Builder",
    "Mapped",
    "array_of",
    "attribute",
    "evaluate",
    "identifier",
    "plain_attributes",
    "rebuild",
    "scope_of",
    "shape_of",
]

OPSET = 17  # the first with LayerNormalization; ONNX Runtime reads it since 1.12
IR_VERSION = 8
MICROSOFT = "com.microsoft"
ONE_STREAM = "one_stream"  # metadata of a sequence graph that cannot serve several streams: why

Mapped = dict[ir.Value, ir.Value]
"""From the values of the graph that is read to those of the graph that is built."""


class Builder:
    """Appends to a new graph; every value gets a name that says which layer it belongs to."""

    def __init__(self, name: str) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET, MICROSOFT: 1}, name=name)
        self.scope = ""
        self._names: set[str] = set()
        self._counts: dict[str, int] = {}
        self._constants: dict[tuple[Any, ...], ir.Value] = {}

    def unique(self, name: str) -> str:
        """Return `name`, or with a number behind it where it is taken."""
        chosen, count = name, self._counts.get(name, 0)
        while chosen in self._names:
            count += 1
            chosen = f"{name}_{count}"
        self._counts[name] = count
        self._names.add(chosen)
        return chosen

    def input(self, name: str, shape: Sequence[int | str], dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """Add a graph input."""
        value = ir.Value(name=self.unique(name), shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.graph.inputs.append(value)
        return value

    def constant(
        self, array: NDArray[Any] | Sequence[int] | float, name: str = "constant", shared: bool = True
    ) -> ir.Value:
        """Add an initializer; floats become float32, Python integers int64. Equal small ones may be shared."""
        data = np.asarray(array)
        if data.dtype == np.float64:
            data = data.astype(np.float32)
        key = (data.shape, data.dtype.str, data.tobytes()) if shared and data.size <= 64 else None
        if key in self._constants:
            return self._constants[key]
        full = self.unique(f"{self.scope}/{name}" if self.scope else name)
        value = ir.Value(
            name=full,
            shape=ir.Shape(data.shape),
            type=ir.TensorType(ir.DataType.from_numpy(data.dtype)),
            const_value=ir.Tensor(data, name=full),
        )
        self.graph.register_initializer(value)
        if key is not None:
            self._constants[key] = value
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node with one output and return that; `op_type` may have a domain before it, "domain::Operator"."""
        return self.ops(op_type, inputs, 1, attributes)[0]

    def ops(
        self, op_type: str, inputs: Sequence[ir.Value | None], outputs: int, attributes: Mapping[str, Any]
    ) -> Sequence[ir.Value]:
        """Add a node with several outputs and return them."""
        domain, _, op_type = op_type.rpartition("::")
        name = self.unique(f"{self.scope}/{op_type}" if self.scope else op_type)
        node = ir.Node(
            domain,
            op_type,
            inputs,
            ir.convenience.convert_attributes(attributes),
            num_outputs=outputs,
            graph=self.graph,
            name=name,
        )
        for index, value in enumerate(node.outputs):
            value.name = f"{name}:{index}" if index else name
        return node.outputs

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value]:
        """Add a node like `node` with other inputs; return its outputs."""
        self.scope = scope_of(node)
        op_type = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        return self.ops(op_type, inputs, len(node.outputs), plain_attributes(node))

    def output(self, value: ir.Value, name: str) -> None:
        """Make `value` the next graph output, under a name of its own."""
        taken = value.is_graph_input() or value.is_graph_output() or value.is_initializer()
        final = self.op("Identity", value) if taken else value
        final.name = self.unique(name)
        self.graph.outputs.append(final)

    def finish(self) -> ir.Model:
        """Drop what is not used, infer shapes, and return the model."""
        model = ir.Model(self.graph, ir_version=IR_VERSION, producer_name="edgernn")
        RemoveUnusedNodesPass()(model)
        ShapeInferencePass()(model)
        return model


def evaluate(node: ir.Node, inputs: Sequence[ir.Value | None]) -> list[NDArray[Any]]:
    """Return what a node gives for constants, by ONNX' reference evaluator."""
    arrays = {f"x{place}": array_of(value) for place, value in enumerate(inputs) if value is not None}
    names = ["" if value is None else f"x{place}" for place, value in enumerate(inputs)]
    results = [f"y{place}" for place in range(len(node.outputs))]
    proto = onnx.helper.make_node(node.op_type, names, results, domain=node.domain, **plain_attributes(node))
    graph = onnx.helper.make_graph(
        [proto],
        "constant",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in arrays.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in results],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    try:
        return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, arrays)]
    except Exception as error:  # of a malformed file: whatever NumPy says of shapes and types that do not fit
        name = node.name or node.op_type
        raise ConversionError(
            f"{name} ({node.op_type}) cannot be computed of its constants: {one_line(error)}"
        ) from error


def identifier(name: str) -> str:
    """Return `name` as the inputs and outputs of every format may be called.

    TensorFlow forgets arguments that begin with an underscore, and knows no letters beyond ASCII.

    >>> identifier("_gru/running.größe")
    'gru_running_gr__e'
    """
    return re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_") or "tensor"


def rebuild(
    model: ir.Model,
    visit: Callable[[ir.Node, Sequence[ir.Value | None], Builder], Sequence[ir.Value] | None],
) -> ir.Model:
    """Build a graph from `model`, with the same inputs and outputs, asking `visit` what each node becomes.

    `visit(node, new_inputs, builder)` returns the new outputs, or None to have the node copied. The body of a Scan is
    rebuilt in the same way; it reads nothing of the graph around it.
    """
    builder = Builder(model.graph.name or "graph")
    mapped: Mapped = {}
    for value in model.graph.inputs:
        mapped[value] = builder.input(_name(value), _dims(value), value.dtype or ir.DataType.FLOAT)
    for value in model.graph.initializers.values():
        mapped[value] = builder.constant(array_of(value), _name(value), shared=False)
    for node in model.graph:
        inputs = [None if value is None else mapped[value] for value in node.inputs]
        builder.scope = scope_of(node)
        if node.op_type == "Scan":
            inner = rebuild(ir.Model(attribute(node, "body", None), ir_version=IR_VERSION), visit).graph
            outputs = builder.ops("Scan", inputs, len(node.outputs), {**plain_attributes(node), "body": inner})
        else:
            outputs = visit(node, inputs, builder) or builder.copy(node, inputs)
        for old, new in zip(node.outputs, outputs, strict=False):
            if new.shape is None:  # the pass keeps what a value is, so its shape is known before it is inferred
                new.shape, new.type = old.shape, old.type
            mapped[old] = new
    for value in model.graph.outputs:
        builder.output(mapped[value], _name(value))
    return builder.finish()


def scope_of(node: ir.Node) -> str:
    """Return the name of the layer that a node was made for."""
    return (node.name or "").rpartition("/")[0]


def array_of(value: ir.Value | None) -> NDArray[Any]:
    """Return the contents of a constant; raise `ConversionError` where `value` is not one."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if value is None or tensor is None:
        name = None if value is None else value.name
        raise ConversionError(f"expected a constant, found the computed value {name!r}")
    array: NDArray[Any] = tensor.numpy()
    return array


def plain_attributes(node: ir.Node) -> dict[str, Any]:
    """Return the attributes of a node as plain Python values."""
    return {key: _plain(item) for key, item in node.attributes.items()}


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Return an attribute as a plain Python value, or `default` where the node has none."""
    item = node.attributes.get(name)
    return default if item is None else _plain(item)


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """Return a static shape; raise `ConversionError` where a dimension is not known."""
    shape = value.shape
    if shape is None or not all(isinstance(size, int) for size in shape):
        raise ConversionError(f"the shape of {value.name} is not static: {shape}")
    return tuple(size for size in shape if isinstance(size, int))


def _plain(item: ir.Attr) -> Any:
    if item.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS):
        return list(item.value)
    return item.value


def _dims(value: ir.Value) -> list[int | str]:
    return [size if isinstance(size, int) else str(size.value) for size in value.shape or ()]


def _name(value: ir.Value) -> str:
    return value.name or "value"

"""Loop and Scan nodes that are a GRU, an RNN or an LSTM, as tf2onnx and Keras write them.

Nothing is read from the body but which constants and activations it has. Every recurrent operator that can be made of
these is run beside the loop on random input; the one that gives the same takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.errors import ConversionError, UnsupportedLayerError
from edgernn.quantize.graph import IR_VERSION, OPSET, attribute
from edgernn.quantize.onnx_files.probe import Probe, Run
from edgernn.quantize.onnx_files.session import Session

__all__ = ["recognize_loops"]

Array = NDArray[Any]
SIZES = ((5, 2), (24, 1), (240, 1))  # frames and streams that are tried
CLOSE = 1e-5
GATE_ACTIVATIONS = ("Sigmoid", "HardSigmoid")
ACTIVATIONS = ("Tanh", "Relu", "Sigmoid", "HardSigmoid", "Softsign", "Softplus", "Elu", "Affine")
# gates as Keras has them in its weights, and the same as ONNX has them
ORDERS = {"GRU": ("zrh", "zrh"), "LSTM": ("ifco", "iofc"), "RNN": ("h", "h")}


@dataclass(frozen=True)
class _Operator:
    """A recurrent operator with its weights, in the order of ONNX."""

    op_type: str
    weights: tuple[Array, ...]
    """W, R and B, each with an axis for one direction in front."""
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class _Parts:
    """What goes into a loop and comes out, as far as it may be a recurrent operator."""

    sequence: ir.Value
    initial: list[ir.Value]
    final: list[ir.Value]
    every: list[ir.Value]
    constants: list[ir.Value]
    activations: tuple[str, ...]


def recognize_loops(model: ir.Model, frames: Sequence[ir.Value]) -> None:
    """Put recurrent operators in the place of loops; raise `UnsupportedLayerError` for one that is none."""
    loops = [(node, _parts(node)) for node in model.graph if node.op_type in ("Loop", "Scan")]
    for node, parts in loops:
        if parts is None:  # told before anything is run: it may go on for ever
            raise _unrecognized(node)
    run = _run(model, frames) if loops else {}
    for node, parts in loops:
        found = next((item for item in _operators(parts, run) if _agrees(item, parts, run)), None) if parts else None
        if parts is None or found is None:
            raise _unrecognized(node)
        _replace(model.graph, node, parts, found)


def _unrecognized(node: ir.Node) -> UnsupportedLayerError:
    body = sorted({inner.op_type for inner in attribute(node, "body", [])})
    return UnsupportedLayerError(
        f"node {node.name} ({node.op_type}) is no GRU, RNN or LSTM that begins at the first frame (in its body: "
        f"{', '.join(body)}); convert the Keras model itself, or write it with recurrent layers"
    )


def _run(model: ir.Model, frames: Sequence[ir.Value]) -> Run:
    """Run the model at small sizes, whichever axes are batch and time."""
    probe = Probe(model)
    for length, streams in SIZES:
        for open_sizes in ((streams, length), (length, streams), (length, length)):
            run = probe({value.name or "": _shape(value, open_sizes) for value in frames})
            if run is not None:
                return run
    sizes = ", ".join(str(length) for length, _ in SIZES)
    raise ConversionError(f"the model cannot be run on {sizes} frames, to see what its loops do: {probe.failure}")


def _shape(value: ir.Value, open_sizes: tuple[int, int]) -> tuple[int, ...]:
    sizes = iter([*open_sizes, *[1] * len(value.shape or ())])
    return tuple(size if isinstance(size, int) else next(sizes) for size in value.shape or ())


def _parts(node: ir.Node) -> _Parts | None:
    """Take a loop apart: one value that is read frame by frame, states, and constants."""
    body = attribute(node, "body", None)
    names = {value: value for value in body.inputs}
    carried = list(zip(node.inputs[2:], body.inputs[2:], body.outputs[1:], node.outputs, strict=False))
    sequences: list[ir.Value | None] = []
    if node.op_type == "Scan":
        count = len(node.inputs) - int(attribute(node, "num_scan_inputs", 1))
        carried = list(zip(node.inputs[:count], body.inputs, body.outputs, node.outputs, strict=False))[:count]
        sequences = list(node.inputs[count:])
    constant = {inner: outer for outer, inner, leaving, _ in carried if _origin(leaving) is inner}
    states = [
        (outer, final)
        for outer, inner, leaving, final in carried
        if inner not in constant and _is_float(inner, leaving)
    ]
    sequences += [
        inner.inputs[0] for inner in body if inner.op_type == "Gather" and inner.inputs[0] not in names
        and not attribute(inner, "axis", 0) and inner.inputs[0] is not None and not inner.inputs[0].is_initializer()
    ]  # fmt: skip
    read = dict.fromkeys(value for inner in body for value in inner.inputs if value is not None)
    constants = [constant.get(value, value) for value in read if value in constant or value.is_initializer()]
    if len(sequences) != 1 or sequences[0] is None or not states or any(outer is None for outer, _ in states):
        return None
    activations = {inner.op_type for inner in body}
    return _Parts(
        sequences[0],
        [outer for outer, _ in states if outer is not None],
        [final for _, final in states],
        list(node.outputs[len(carried) :]),
        [value for value in constants if value is not None],
        tuple(name for name in ACTIVATIONS if name in activations or name == "Affine"),
    )


def _origin(value: ir.Value) -> ir.Value:
    node = value.producer()
    return _origin(node.inputs[0]) if node is not None and node.op_type == "Identity" and node.inputs[0] else value


def _is_float(inner: ir.Value, leaving: ir.Value) -> bool:
    return ir.DataType.FLOAT in (inner.dtype, leaving.dtype)


def _operators(parts: _Parts, run: Run) -> Iterator[_Operator]:
    """Give every operator that can be made of the constants."""
    features = run[parts.sequence.name or ""].shape[-1]
    state = _contents(parts.initial[0], run)
    if state is None or state.ndim != 2:
        return
    hidden = state.shape[-1]
    contents = (_contents(value, run) for value in parts.constants)
    arrays = [array for array in contents if array is not None and array.dtype == np.float32 and array.ndim in (1, 2)]
    for op_type, (order, wanted) in ORDERS.items():
        if (op_type == "LSTM") != (len(parts.initial) == 2):
            continue
        width = len(order) * hidden
        kernels = [array for array in arrays if array.shape == (features, width)]
        recurrents = [array for array in arrays if array.shape == (hidden, width)]
        biases = [array for array in arrays if array.size in (width, 2 * width) and array.shape[-1] == width]
        blank = np.zeros(width, np.float32)
        for kernel, recurrent, bias in product(kernels, recurrents, [*biases, blank]):
            both = np.concatenate([bias.ravel(), blank])[: 2 * width]
            columns = np.concatenate([np.arange(hidden) + order.index(gate) * hidden for gate in wanted])
            ordered = both.reshape(2, width)[:, columns].reshape(1, -1)
            weights = (kernel[:, columns].T[None], recurrent[:, columns].T[None], ordered)
            for attributes in _settings(op_type, parts.activations):
                yield _Operator(op_type, weights, {"hidden_size": hidden, **attributes})


def _settings(op_type: str, activations: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Give activations and, for a GRU, the place of its reset gate."""
    if op_type == "RNN":
        yield from ({"activations": [name]} for name in activations)
        return
    for gate, other in product([name for name in activations if name in GATE_ACTIVATIONS], activations):
        names = [gate, other] if op_type == "GRU" else [gate, other, other]
        for reset in (1, 0) if op_type == "GRU" else (None,):
            yield {"activations": names, **({} if reset is None else {"linear_before_reset": reset})}


def _contents(value: ir.Value, run: Run) -> Array | None:
    tensor = ir.convenience.get_const_tensor(value)
    return run.get(value.name or "") if tensor is None else tensor.numpy()


def _agrees(operator: _Operator, parts: _Parts, run: Run) -> bool:
    """Run an operator on what the loop was given, and compare everything that comes out."""
    sequence = run[parts.sequence.name or ""]
    states = [_contents(value, run) for value in parts.initial]
    if sequence.ndim != 3 or any(state is None or state.ndim != 2 for state in states):
        return False
    names = [f"in{place}" for place in range(4 + len(states))]
    fed = [sequence, *operator.weights, *(state[None] for state in states if state is not None)]
    outputs = ["y", "h", "c"][: 1 + len(states)]
    found = _alone(operator)(dict(zip(names, fed, strict=True)), outputs)
    pairs = [(found["y"][:, 0], run.get(value.name or "")) for value in parts.every]
    pairs += [(found[name][0], run.get(value.name or "")) for name, value in zip(outputs[1:], parts.final, strict=True)]
    return bool(pairs) and all(
        theirs is not None and ours.shape == theirs.shape and np.allclose(ours, theirs, atol=CLOSE)
        for ours, theirs in pairs
    )


def _alone(operator: _Operator) -> Session:
    """Return a model of one recurrent operator: inputs in0, in1, and so on, outputs y, h and c."""
    states = 2 if operator.op_type == "LSTM" else 1
    names, outputs = [f"in{place}" for place in range(4 + states)], ["y", "h", "c"][: 1 + states]
    node = onnx.helper.make_node(operator.op_type, [*names[:4], "", *names[4:]], outputs, **operator.attributes)
    sizes = {name: [None] * rank for name, rank in zip(names, (3, 3, 3, 2, 3, 3), strict=False)}
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "alone",
        [onnx.helper.make_tensor_value_info(name, kind, shape) for name, shape in sizes.items()],
        [onnx.helper.make_tensor_value_info(name, kind, None) for name in outputs],
    )
    opset = [onnx.helper.make_opsetid("", OPSET)]
    return Session(onnx.helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION))


def _replace(graph: ir.Graph, node: ir.Node, parts: _Parts, operator: _Operator) -> None:
    others = [value for value in node.outputs if value not in (*parts.final, *parts.every)]
    if any(value.uses() or value.is_graph_output() for value in others):
        raise UnsupportedLayerError(f"node {node.name} ({node.op_type}): its counters are used, not only its frames")
    weights = [_constant(graph, f"{node.name}_{place}", array) for place, array in enumerate(operator.weights)]
    first, axis = (_constant(graph, f"{node.name}_axis{place}", np.array([place], np.int64)) for place in (0, 1))
    states = [ir.Node("", "Unsqueeze", [value, first]) for value in parts.initial]
    recurrent = ir.Node(
        "", operator.op_type, [parts.sequence, *weights, None, *(state.outputs[0] for state in states)],
        ir.convenience.convert_attributes(dict(operator.attributes)), num_outputs=1 + len(states), name=node.name,
    )  # fmt: skip
    squeezed = [ir.Node("", "Squeeze", [recurrent.outputs[0], axis]) for _ in parts.every]
    squeezed += [ir.Node("", "Squeeze", [value, first]) for value in recurrent.outputs[1:]]
    graph.insert_before(node, [*states, recurrent, *squeezed])
    for old, new in zip([*parts.every, *parts.final], squeezed, strict=True):
        name, new.outputs[0].type = old.name, old.type
        old.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
        old.name, new.outputs[0].name = f"{name}_of_loop", name
    graph.remove(node)


def _constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.Tensor(np.ascontiguousarray(array), name=name),
    )  # fmt: skip
    graph.register_initializer(value)
    return value

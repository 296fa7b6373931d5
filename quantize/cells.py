"""Recurrent operators as plain products and element-wise operations, for back ends that need it.

TFLite has no step of a GRU, and ONNX Runtime quantizes no GRU or RNN: as plain operations both run fast, in every
scheme. The equations are those of the ONNX operators LSTM, GRU and RNN (onnx.ai/onnx/operators), with the two products
of each cell over all of its gates at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.errors import ConversionError
from edgernn.quantize.graph import Builder, array_of, attribute, rebuild, shape_of

__all__ = ["Activation", "activation_attributes", "activations_of", "decompose_cells"]

# ONNX' defaults: f (gates), g (candidate), h (output)
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
# how many gates have one activation
GATES = {"LSTM": (3, 1), "GRU": (2, 1), "RNN": (1,)}
# the activations that have parameters, and what these are where they are not given
PARAMETERS = {
    "Affine": {"alpha": 1.0, "beta": 0.0},
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
    "ThresholdedRelu": {"alpha": 1.0},
}

Activation = tuple[str, dict[str, float]]
"""Name of an activation of the recurrent operators, and its parameters."""


def decompose_cells(model: ir.Model, by_activation: bool = False, rolled: bool = False) -> ir.Model:
    """Return the step graph with its LSTM, GRU and RNN nodes taken apart.

    A cell has a product for all of its gates, or with `by_activation` one for those with the same activation: a tanh's
    argument is not as large as those of the sigmoids, and quantized alone it has finer levels.

    Several frames are written one behind the other or, `rolled`, as a Scan: in a file of ONNX Runtime each of them
    would need a copy of the recurrent weights, since it rewrites those of 8 bits on some processors, for each product
    anew. (A Scan of eight frames of a GRU(128) takes a tenth longer, and is opened in a seventh of the time.)
    """

    def visit(node: ir.Node, inputs: Sequence[ir.Value | None], graph: Builder) -> Sequence[ir.Value] | None:
        step = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}.get(node.op_type)
        if step is None:
            return None
        assert node.inputs[0] is not None
        several = shape_of(node.inputs[0])[0] > 1  # of the outputs, one that nothing reads has no shape
        return (_scan if rolled and several else _unroll)(_Cell(node, graph, by_activation), node, inputs, step)

    return rebuild(model, visit)


class _Cell:
    """The constants of one operator, and its activations."""

    def __init__(self, node: ir.Node, graph: Builder, by_activation: bool) -> None:
        self.graph, self.by_activation, self.gates = graph, by_activation, GATES[node.op_type]
        self.kernel = array_of(node.inputs[1])[0].T  # (features, gates * hidden)
        self.recurrent = array_of(node.inputs[2])[0].T
        self.hidden = self.recurrent.shape[0]
        width = self.kernel.shape[1]
        bias = node.inputs[3] if len(node.inputs) > 3 else None
        both = np.zeros(2 * width, np.float32) if bias is None else array_of(bias)[0]
        self.input_bias, self.recurrent_bias = np.split(both, 2)
        self.reset_after = bool(attribute(node, "linear_before_reset", 0))
        self.activations = activations_of(node)

    def product(self, x: ir.Value, matrix: NDArray[Any], bias: NDArray[Any], name: str) -> ir.Value:
        """Return `x @ matrix + bias`."""
        value = self.graph.op("MatMul", x, self.graph.constant(np.ascontiguousarray(matrix), name))
        return self.graph.op("Add", value, self.graph.constant(bias, f"{name}_bias")) if bias.any() else value

    def products(self, x: ir.Value, matrix: NDArray[Any], bias: NDArray[Any], name: str) -> list[ir.Value]:
        """Return `x @ matrix + bias`: in one part for all gates, or in one for each activation."""
        if not self.by_activation:
            return [self.product(x, matrix, bias, name)]
        stops = np.cumsum(self.gates)[:-1] * self.hidden
        parts = zip(np.split(matrix, stops, axis=1), np.split(bias, stops), strict=True)
        return [self.product(x, part, added, name) for part, added in parts]

    def parted(self, values: Sequence[ir.Value]) -> Sequence[ir.Value]:
        """Return what `products` gave in one part for each activation."""
        return values if self.by_activation else self.split(values[0], *self.gates)

    def split(self, x: ir.Value, *gates: int) -> Sequence[ir.Value]:
        """Split along the last axis into parts of so many gates each."""
        sizes = self.graph.constant(np.array([count * self.hidden for count in gates], np.int64), "sizes")
        return self.graph.ops("Split", [x, sizes], len(gates), {"axis": -1})

    def activate(self, which: int, x: ir.Value) -> ir.Value:
        """Apply activation f, g or h."""
        name, attributes = self.activations[which]
        return x if name == "Affine" else self.graph.op(name, x, **attributes)


def activation_attributes(functions: Sequence[Activation]) -> dict[str, list[Any]]:
    """Return the attributes that tell a recurrent operator its activations.

    The operators read `activation_alpha` and `activation_beta` in order, for activations that have such a parameter.

    >>> activation_attributes([("Sigmoid", {}), ("Elu", {"alpha": 1.0})])
    {'activations': ['Sigmoid', 'Elu'], 'activation_alpha': [1.0]}
    """
    attributes: dict[str, list[Any]] = {"activations": [name for name, _ in functions]}
    for key in ("alpha", "beta"):
        values = [parameters[key] for _, parameters in functions if key in parameters]
        if values:
            attributes[f"activation_{key}"] = values
    return attributes


def activations_of(node: ir.Node) -> list[Activation]:
    """Return the activations of a recurrent operator with their parameters, in ONNX' order."""
    if attribute(node, "clip", 0.0) or attribute(node, "input_forget", 0):
        raise ConversionError(f"{node.name}: clip and input_forget cannot be taken apart; export the model without")
    given = {key: iter(attribute(node, f"activation_{key}", [])) for key in ("alpha", "beta")}
    functions = []
    for name in attribute(node, "activations", DEFAULTS[node.op_type]):
        defaults = PARAMETERS.get(name, {})
        functions.append((name, {key: float(next(given[key], default)) for key, default in defaults.items()}))
    for name, parameters in functions:
        if name == "Affine" and parameters != PARAMETERS["Affine"]:
            raise ConversionError(f"{node.name}: the activation Affine with {parameters} cannot be taken apart")
    return functions


Step = Callable[[_Cell, Sequence[ir.Value], list[ir.Value]], list[ir.Value]]


def _unroll(cell: _Cell, node: ir.Node, inputs: Sequence[ir.Value | None], step: Step) -> Sequence[ir.Value]:
    """Take the operator's frames one by one; the input products of all frames are one product."""
    graph = cell.graph
    assert node.inputs[0] is not None
    frames, batch, _ = shape_of(node.inputs[0])
    gates, states = _entering(cell, node, inputs)
    each = [_frames(graph, part, frames) for part in gates]
    history: list[ir.Value] = []
    backwards = _reads_backwards(node)
    for index in reversed(range(frames)) if backwards else range(frames):
        states = step(cell, [parts[index] for parts in each], states)
        history.insert(0 if backwards else index, states[0])
    every = history[0] if frames == 1 else graph.op("Concat", *history, axis=0)
    whole = graph.op("Reshape", every, graph.constant([frames, 1, batch, cell.hidden], "shape"))
    return [whole, *states]


def _scan(cell: _Cell, node: ir.Node, inputs: Sequence[ir.Value | None], step: Step) -> Sequence[ir.Value]:
    """Take the operator's frames by an ONNX Scan, which runs the cell's graph for each."""
    assert node.inputs[0] is not None
    _, batch, _ = shape_of(node.inputs[0])
    gates, states = _entering(cell, node, inputs)
    outer, cell.graph = cell.graph, Builder("frame")
    body, width = cell.graph, cell.kernel.shape[1]
    body.scope = f"{outer.scope}/frame"  # its names are not to hide any around it
    names = [*("state" for _ in states), *("gates" for _ in gates)]
    shapes = [[1, batch, cell.hidden]] * len(states) + [[batch, width]] * len(gates)
    entering = [body.input(f"{body.scope}/{name}", shape) for name, shape in zip(names, shapes, strict=True)]
    leaving = step(cell, entering[len(states) :], entering[: len(states)])
    for value in (*leaving, leaving[0]):
        body.output(value, f"{body.scope}/result")
    backwards = int(_reads_backwards(node))
    attributes = {
        "body": body.finish().graph,
        "num_scan_inputs": len(gates),
        "scan_input_directions": [backwards] * len(gates),
        "scan_output_directions": [backwards],
    }
    *last, every = outer.ops("Scan", [*states, *gates], len(leaving) + 1, attributes)
    return [every, *last]


def _entering(cell: _Cell, node: ir.Node, inputs: Sequence[ir.Value | None]) -> tuple[list[ir.Value], list[ir.Value]]:
    """Return the input's part of the gates of all frames, and the states before the first."""
    assert inputs[0] is not None
    gates = cell.products(inputs[0], cell.kernel, cell.input_bias + _shared_bias(node, cell), "kernel")
    return gates, [value for value in inputs[5:7] if value is not None]


def _reads_backwards(node: ir.Node) -> bool:
    return bool(attribute(node, "direction", "forward") == "reverse")


def _shared_bias(node: ir.Node, cell: _Cell) -> NDArray[Any]:
    """Return the part of the recurrent bias that may be added on the input's side."""
    shared = cell.recurrent_bias.copy()
    if node.op_type == "GRU" and cell.reset_after:
        shared[2 * cell.hidden :] = 0.0  # the candidate's is inside the product with the reset gate
    return shared


def _frames(graph: Builder, gates: ir.Value, frames: int) -> Sequence[ir.Value]:
    """Return the frames one by one: a Split is one node, of which a file says less than of many slices."""
    return [gates] if frames == 1 else graph.ops("Split", [gates], frames, {"axis": 0})


def _lstm(cell: _Cell, gates: Sequence[ir.Value], states: list[ir.Value]) -> list[ir.Value]:
    h, c = states
    graph = cell.graph
    recurrent = cell.products(h, cell.recurrent, np.zeros(4 * cell.hidden, np.float32), "recurrent")
    iof, z = cell.parted([graph.op("Add", *pair) for pair in zip(gates, recurrent, strict=True)])
    i, o, f = cell.split(cell.activate(0, iof), 1, 1, 1)
    c = graph.op("Add", graph.op("Mul", f, c), graph.op("Mul", i, cell.activate(1, z)))
    return [graph.op("Mul", o, cell.activate(2, c)), c]


def _gru(cell: _Cell, gates: Sequence[ir.Value], states: list[ir.Value]) -> list[ir.Value]:
    (h,) = states
    graph, hidden = cell.graph, cell.hidden
    x_zr, x_n = cell.parted(gates)
    if cell.reset_after:
        bias = np.concatenate([np.zeros(2 * hidden, np.float32), cell.recurrent_bias[2 * hidden :]])
        h_zr, h_n = cell.parted(cell.products(h, cell.recurrent, bias, "recurrent"))
    else:
        h_zr = cell.product(h, cell.recurrent[:, : 2 * hidden], np.zeros(1), "recurrent")
    z, r = cell.split(cell.activate(0, graph.op("Add", x_zr, h_zr)), 1, 1)
    if cell.reset_after:
        reset = graph.op("Mul", r, h_n)
    else:
        reset = cell.product(graph.op("Mul", r, h), cell.recurrent[:, 2 * hidden :], np.zeros(1), "candidate")
    n = cell.activate(1, graph.op("Add", x_n, reset))
    return [graph.op("Add", n, graph.op("Mul", z, graph.op("Sub", h, n)))]


def _rnn(cell: _Cell, gates: Sequence[ir.Value], states: list[ir.Value]) -> list[ir.Value]:
    (h,) = states
    (x,) = gates
    return [cell.activate(0, cell.graph.op("Add", x, cell.product(h, cell.recurrent, np.zeros(1), "recurrent")))]

"""A recurrent operator of two directions becomes two of one, so that each rule has one direction to think of."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgernn.quantize.cells import Activation, activation_attributes, activations_of
from edgernn.quantize.graph import Builder, array_of, attribute, plain_attributes, rebuild

__all__ = ["split_directions"]

RECURRENT = ("LSTM", "GRU", "RNN")
SIDES = ("forward", "reverse")
BY_DIRECTION = (1, 2, 3, 5, 6, 7)  # the inputs W, R, B, initial_h, initial_c, P have an entry for each direction


def split_directions(sequence: ir.Model) -> ir.Model:
    """Return the graph with each bidirectional LSTM, GRU and RNN as a forward and a reverse one."""
    return rebuild(sequence, _visit) if any(map(_is_bidirectional, sequence.graph)) else sequence


def _is_bidirectional(node: ir.Node) -> bool:
    return node.op_type in RECURRENT and attribute(node, "direction", "forward") == "bidirectional"


def _visit(node: ir.Node, inputs: Sequence[ir.Value | None], graph: Builder) -> Sequence[ir.Value] | None:
    if not _is_bidirectional(node):
        return None
    halves = [_half(node, inputs, index, graph) for index in range(len(SIDES))]
    axes = (1, 0, 0)  # of the directions in Y (seq, directions, batch, hidden), Y_h and Y_c
    return [graph.op("Concat", *pair, axis=axis) for axis, pair in zip(axes, zip(*halves, strict=True), strict=False)]


def _half(node: ir.Node, inputs: Sequence[ir.Value | None], index: int, graph: Builder) -> Sequence[ir.Value]:
    entered = list(inputs)
    for place in BY_DIRECTION:
        if place < len(entered) and entered[place] is not None:
            entered[place] = graph.constant(array_of(node.inputs[place])[index : index + 1], SIDES[index])
    attributes = {key: item for key, item in plain_attributes(node).items() if not key.startswith("activation")}
    attributes.update(direction=SIDES[index], **activation_attributes(_functions(node, index)))
    outer, graph.scope = graph.scope, f"{graph.scope}/{SIDES[index]}" if graph.scope else SIDES[index]
    outputs = graph.ops(node.op_type, entered, len(node.outputs), attributes)
    graph.scope = outer
    return outputs


def _functions(node: ir.Node, index: int) -> Sequence[Activation]:
    functions = activations_of(node)
    each = len(functions) // len(SIDES) if "activations" in node.attributes else 0  # the defaults stand for both
    return functions[index * each :][: each or None]

"""Initial states of recurrent operators that a stream begins without: zeros, and what an input brings."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgernn.quantize.graph import array_of

__all__ = ["PLACES", "begin_with_zeros", "forget_zero_states", "initial_states"]

PLACES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
"""Which inputs of a recurrent operator are its initial states."""
MOVES = ("Cast", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")


def forget_zero_states(model: ir.Model) -> None:
    """Take away initial states that are nothing but zeros: that is what a recurrent operator begins with anyway."""
    for node in model.graph:
        for place in PLACES.get(node.op_type, ()):
            value = node.inputs[place] if place < len(node.inputs) else None
            if value is not None and value.is_initializer() and not array_of(value).any():
                node.replace_input_with(place, None)


def initial_states(model: ir.Model) -> dict[ir.Value, list[tuple[ir.Node, int]]]:
    """Return the inputs that are initial states of recurrent operators and nothing else, and where they are that."""
    ends = {value: _ends(value) for value in model.graph.inputs}
    return {value: places for value, places in ends.items() if places}


def _ends(value: ir.Value) -> list[tuple[ir.Node, int]] | None:
    """Follow a value through what only moves it; return None where it is something else than an initial state."""
    if value.is_graph_output():
        return None
    found = []
    for node, place in value.uses():
        if place in PLACES.get(node.op_type, ()):
            found.append((node, place))
            continue
        parts = [_ends(part) for part in node.outputs] if node.op_type in MOVES and place == 0 else [None]
        for part in parts:
            if part is None:
                return None
            found += part
    return found


def begin_with_zeros(model: ir.Model) -> list[ir.Node]:
    """Take away inputs that are initial states alone, or nothing at all; return the operators that had a state so."""
    begun = initial_states(model)
    for node, place in [end for ends in begun.values() for end in ends]:
        node.replace_input_with(place, None)
    RemoveUnusedNodesPass()(model)
    for value in [value for value in model.graph.inputs if not value.uses() and not value.is_graph_output()]:
        model.graph.inputs.remove(value)
    return list(dict.fromkeys(node for ends in begun.values() for node, _ in ends))

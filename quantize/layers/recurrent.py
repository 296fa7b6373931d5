"""LSTM, GRU, SimpleRNN, and RNN around their cells or others, as the ONNX operators LSTM, GRU and RNN.

The orders, Keras against ONNX (both written down once, here; a test compares each with Keras):

| operator | Keras packs gates | ONNX packs gates | state |
| --- | --- | --- | --- |
| LSTM | i, f, c, o | i, o, f, c | h, c |
| GRU | z, r, h | z, r, h | h |

Keras' `reset_after=True` is ONNX' `linear_before_reset=1`. A cell that is none of these, or has an activation that the
operators do not know, and any cell under a mask, becomes the body of a Scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.cells import activation_attributes
from edgernn.quantize.from_keras import Call, Emitter, emits, refuse
from edgernn.quantize.graph import array_of
from edgernn.quantize.layers.activation import recurrent_activation
from edgernn.quantize.layers.scan import Step, scan_cell, traced_step

__all__ = ["GATE_ORDER", "Operator", "operator_of", "turn_around"]

GATE_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2), "RNN": (0,)}
"""For each gate of the ONNX operator: which of Keras' gates it is."""
CELLS = {
    "LSTMCell": ("LSTM", ("recurrent_activation", "activation", "activation")),
    "GRUCell": ("GRU", ("recurrent_activation", "activation")),
    "SimpleRNNCell": ("RNN", ("activation",)),
}
"""For each cell of Keras: the operator, and where the cell has the activations of that."""


@dataclass(frozen=True)
class Operator:
    """The recurrent operator that a cell of Keras is."""

    op_type: str
    weights: tuple[NDArray[Any], ...]
    """W, R and B."""
    attributes: dict[str, Any]

    @property
    def states(self) -> int:
        """How many states it has."""
        return 2 if self.op_type == "LSTM" else 1

    def emit(self, x: ir.Value, states: Sequence[ir.Value], graph: Emitter, **attributes: Any) -> Sequence[ir.Value]:
        """Emit it over `x`, `(frames, batch, features)`; return its outputs: every h, and the final states."""
        constants = [graph.constant(array, name) for array, name in zip(self.weights, "WRB", strict=True)]
        initial = [None, *states] if states else []  # None: no lengths
        return graph.ops(self.op_type, [x, *constants, *initial], 1 + self.states, {**self.attributes, **attributes})


def operator_of(cell: Any) -> Operator | None:
    """Return the operator that computes what a cell computes, None where there is none."""
    op_type, names = CELLS.get(type(cell).__name__, ("", ()))
    functions = [recurrent_activation(cell, name) for name in names]
    known = [function for function in functions if function is not None]
    if not op_type or not type(cell).__module__.startswith("keras.") or len(known) < len(functions):
        return None
    kernel, recurrent, *bias = cell.get_weights()
    order = GATE_ORDER[op_type]
    attributes = {"hidden_size": int(cell.units), **activation_attributes(known)}
    if op_type == "GRU":
        attributes["linear_before_reset"] = int(cell.reset_after)
    weights = (_reorder(kernel, order).T, _reorder(recurrent, order).T, _bias(bias, order, recurrent.shape[1]))
    return Operator(op_type, tuple(array[None] for array in weights), attributes)


@emits("LSTM", "GRU", "SimpleRNN", "RNN", masked=True)
def _recurrent(layer: Any, call: Call, graph: Emitter) -> list[ir.Value]:
    """Stacked cells are layers in turn: each cell sees what the one before it gives for the same frame."""
    _check(layer, call)
    sequence, width, states = call[0], call.size(-1), list[ir.Value]()
    cells, initial = _cells(layer.cell), _initial_states(layer, call)
    for cell in cells:
        operator = operator_of(cell)
        if operator is not None and call.mask is None:
            begin, initial = initial[: operator.states], initial[operator.states :]
            sequence, final = _operated(operator, sequence, begin, layer.go_backwards, graph)
        elif initial:
            raise refuse(layer, "it is given an initial state, under a mask or with a cell that is no operator", ZEROS)
        else:
            zeros = bool(layer.zero_output_for_mask) and cell is cells[-1]
            sequence, final = _scanned(layer, cell, sequence, width, call.mask, zeros, graph)
        width = _output_size(cell)
        states += final
    if not layer.return_sequences:
        sequence = graph.op("Gather", sequence, graph.constant(np.array(-1), "last"), axis=1)
    elif layer.go_backwards:  # the operator keeps frames in place; Keras gives them in the order of their computation
        return [turn_around(sequence, graph)]
    return [sequence, *states] if layer.return_state else [sequence]


def _cells(cell: Any) -> list[Any]:
    stacked = type(cell).__name__ == "StackedRNNCells" and type(cell).__module__.startswith("keras.")
    return [inner for part in cell.cells for inner in _cells(part)] if stacked else [cell]


def _state_sizes(cell: Any) -> dict[str, int]:
    sizes = cell.state_size if isinstance(cell.state_size, list | tuple) else [cell.state_size]
    names = ("h", "c") if len(sizes) <= 2 else tuple(f"state_{place}" for place in range(len(sizes)))
    return {name: int(size) for name, size in zip(names, sizes, strict=False)}


def _output_size(cell: Any) -> int:
    return int(getattr(cell, "output_size", None) or next(iter(_state_sizes(cell).values())))


def _initial_states(layer: Any, call: Call) -> list[ir.Value]:
    """Return the states that the first frame finds, `(batch, units)` each: none where they are zeros."""
    given = call.kwargs.get("initial_state")
    listed = [*call[1:], *(item.value for item in (given if isinstance(given, list | tuple) else [given]) if item)]
    if listed and layer.go_backwards:
        raise refuse(layer, "it goes backwards from an initial state, which is that of the end", ZEROS)
    return listed


ZEROS = "start from zeros: a stream begins with a reset"


def _operated(
    operator: Operator, x: ir.Value, initial: Sequence[ir.Value], backwards: bool, graph: Emitter
) -> tuple[ir.Value, list[ir.Value]]:
    """Return what the operator gives for all frames, `(batch, time, units)`, and its final states `(batch, units)`."""
    direction = {"direction": "reverse"} if backwards else {}
    begin = [graph.op("Unsqueeze", value, graph.constant([0], "direction")) for value in initial]
    every, *final = operator.emit(graph.op("Transpose", x, perm=[1, 0, 2]), begin, graph, **direction)
    squeezed = graph.op("Squeeze", every, graph.constant([1], "direction"))
    states = [graph.op("Squeeze", value, graph.constant([0], "direction")) for value in final]
    return graph.op("Transpose", squeezed, perm=[1, 0, 2]), states


def _scanned(
    layer: Any, cell: Any, x: ir.Value, width: int, mask: ir.Value | None, zeros: bool, graph: Emitter
) -> tuple[ir.Value, list[ir.Value]]:
    """Return the same of any cell."""
    if layer.go_backwards:
        raise refuse(layer, "it goes backwards under a mask, or with a cell that is no operator", "let it go forwards")
    operator, sizes = operator_of(cell), _state_sizes(cell)
    step = _one_frame(operator) if operator else traced_step(layer, cell, width, sizes)
    return scan_cell(step, sizes, _output_size(cell), x, mask, zeros, graph)


def _one_frame(operator: Operator) -> Step:
    """Return the step that the operator makes over a single frame."""

    def step(frame: ir.Value, states: Sequence[ir.Value], body: Emitter) -> tuple[ir.Value, list[ir.Value]]:
        axis = body.constant([0], "axis")
        entering = [body.op("Unsqueeze", value, axis) for value in states]
        _, *final = operator.emit(body.op("Unsqueeze", frame, axis), entering, body)
        new = [body.op("Squeeze", value, axis) for value in final]
        return new[0], new

    return step


def turn_around(x: ir.Value, graph: Emitter) -> ir.Value:
    """Give the frames in the opposite order; twice is not at all."""
    node = x.producer()
    if node is not None and node.op_type == "Slice" and array_of(node.inputs[-1]).tolist() == [-1]:
        assert node.inputs[0] is not None
        return node.inputs[0]
    bounds = ([-1], [np.iinfo(np.int64).min], [1], [-1])
    return graph.op("Slice", x, *(graph.constant(np.array(bound), "bound") for bound in bounds))


def _check(layer: Any, call: Call) -> None:
    if layer.go_backwards and not layer.return_sequences:
        raise refuse(
            layer,
            "it goes backwards, so that its last output is that of the first frame, which a stream has left behind",
            "use return_sequences=True, and behind it the last frame or a pooling over time",
        )
    if call.outer:
        raise refuse(layer, "it runs along the features of each frame", "let it run along time, not in TimeDistributed")


def _reorder(matrix: NDArray[Any], order: Sequence[int]) -> NDArray[Any]:
    gates = np.split(matrix, len(order), axis=-1)
    return np.concatenate([gates[place] for place in order], axis=-1)


def _bias(bias: Sequence[NDArray[Any]], order: Sequence[int], width: int) -> NDArray[Any]:
    """Return the input bias, then the recurrent bias (zeros where Keras has one bias only)."""
    both = np.zeros((2, width), np.float32)
    if bias:
        rows = np.atleast_2d(bias[0])
        both[: len(rows)] = rows
    return np.concatenate([_reorder(row, order) for row in both])

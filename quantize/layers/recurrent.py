"""LSTM, GRU and SimpleRNN as the ONNX operators LSTM, GRU and RNN.

The orders, Keras against ONNX (both written down once, here; a test compares each with Keras):

| operator | Keras packs gates | ONNX packs gates | state |
| --- | --- | --- | --- |
| LSTM | i, f, c, o | i, o, f, c | h, c |
| GRU | z, r, h | z, r, h | h |

Keras' `reset_after=True` is ONNX' `linear_before_reset=1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.cells import Activation, activation_attributes
from edgernn.quantize.from_keras import Call, Emitter, emits, refuse
from edgernn.quantize.graph import array_of
from edgernn.quantize.layers.activation import recurrent_activation

__all__ = ["GATE_ORDER", "turn_around"]

GATE_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2), "RNN": (0,)}
"""For each gate of the ONNX operator: which of Keras' gates it is."""


@emits("LSTM")
def _lstm(layer: Any, inputs: Call, graph: Emitter) -> ir.Value:
    return _recurrent("LSTM", layer, inputs, graph, ("recurrent_activation", "activation", "activation"))


@emits("GRU")
def _gru(layer: Any, inputs: Call, graph: Emitter) -> ir.Value:
    after = int(layer.reset_after)
    return _recurrent("GRU", layer, inputs, graph, ("recurrent_activation", "activation"), linear_before_reset=after)


@emits("SimpleRNN")
def _simple(layer: Any, inputs: Call, graph: Emitter) -> ir.Value:
    return _recurrent("RNN", layer, inputs, graph, ("activation",))


def _recurrent(
    op_type: str, layer: Any, inputs: Call, graph: Emitter, activations: Sequence[str], **extra: int
) -> ir.Value:
    _check(layer, inputs)
    kernel, recurrent, *bias = layer.get_weights()
    order = GATE_ORDER[op_type]
    functions = [_function(layer, name) for name in activations]
    direction = {"direction": "reverse"} if layer.go_backwards else {}
    frames_first = graph.op("Transpose", inputs[0], perm=[1, 0, 2])
    every, _ = graph.ops(
        op_type,
        [
            frames_first,
            graph.constant(_reorder(kernel, order).T[None], "W"),
            graph.constant(_reorder(recurrent, order).T[None], "R"),
            graph.constant(_bias(bias, order, recurrent.shape[1])[None], "B"),
        ],
        2,
        {"hidden_size": int(layer.units), **activation_attributes(functions), **direction, **extra},
    )
    squeezed = graph.op("Squeeze", every, graph.constant([1], "direction"))
    sequence = graph.op("Transpose", squeezed, perm=[1, 0, 2])
    if layer.return_sequences:  # the operator keeps frames in place; Keras gives them in the order of their computation
        return turn_around(sequence, graph) if layer.go_backwards else sequence
    return graph.op("Gather", sequence, graph.constant(np.array(-1), "last"), axis=1)


def _function(layer: Any, name: str) -> Activation:
    known = recurrent_activation(layer, name)
    if known is None:
        raise refuse(layer, f"its {name} is not one that the recurrent operators have", "use tanh, sigmoid or relu")
    return known


def turn_around(x: ir.Value, graph: Emitter) -> ir.Value:
    """Give the frames in the opposite order; twice is not at all."""
    node = x.producer()
    if node is not None and node.op_type == "Slice" and array_of(node.inputs[-1]).tolist() == [-1]:
        assert node.inputs[0] is not None
        return node.inputs[0]
    bounds = ([-1], [np.iinfo(np.int64).min], [1], [-1])
    return graph.op("Slice", x, *(graph.constant(np.array(bound), "bound") for bound in bounds))


def _check(layer: Any, inputs: Call) -> None:
    if layer.go_backwards and not layer.return_sequences:
        raise refuse(
            layer,
            "it goes backwards, so that its last output is that of the first frame, which a stream has left behind",
            "use return_sequences=True, and behind it the last frame or a pooling over time",
        )
    if len(inputs) > 1:
        raise refuse(layer, "it is given an initial state", "start from zeros: a stream begins with a reset")


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

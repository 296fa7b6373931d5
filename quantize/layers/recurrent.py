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

from edgernn.quantize.cells import activation_attributes
from edgernn.quantize.from_keras import Call, Emitter, emits, refuse
from edgernn.quantize.layers.activation import recurrent_activation

__all__ = ["GATE_ORDER"]

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
    functions = [recurrent_activation(layer, name) for name in activations]
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
        {"hidden_size": int(layer.units), **activation_attributes(functions), **extra},
    )
    squeezed = graph.op("Squeeze", every, graph.constant([1], "direction"))
    sequence = graph.op("Transpose", squeezed, perm=[1, 0, 2])
    if layer.return_sequences:
        return sequence
    return graph.op("Gather", sequence, graph.constant(np.array(-1), "last"), axis=1)


def _check(layer: Any, inputs: Call) -> None:
    if layer.go_backwards:
        raise refuse(
            layer,
            "it goes backwards, so that it needs the end of the sequence first",
            "train it with go_backwards=False",
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

"""Bidirectional, and keras.ops.flip over time: two recurrent layers, of which one reads the frames from the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.from_keras import Call, Emitted, Emitter, emit_layer, emits, refuse
from edgernn.quantize.layers.recurrent import turn_around

__all__: list[str] = []

MERGES: dict[str | None, Callable[[Emitter, ir.Value, ir.Value], Emitted]] = {
    "concat": lambda graph, left, right: graph.op("Concat", left, right, axis=-1),
    "sum": lambda graph, left, right: graph.op("Add", left, right),
    "mul": lambda graph, left, right: graph.op("Mul", left, right),
    "ave": lambda graph, left, right: graph.op("Mul", graph.op("Add", left, right), graph.constant(0.5, "half")),
    None: lambda graph, left, right: [left, right],
}


@emits("Bidirectional")
def _bidirectional(layer: Any, call: Call, graph: Emitter) -> Emitted:
    if not layer.return_sequences:
        raise refuse(
            layer,
            "its backward half gives its output for the first frame, which a stream has left behind",
            "use return_sequences=True, and behind it the last frame or a pooling over time",
        )
    forward, backward = (_half(half, call, graph) for half in (layer.forward_layer, layer.backward_layer))
    return MERGES[layer.merge_mode](graph, forward, turn_around(backward, graph))


def _half(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    outer, graph.scope = graph.scope, f"{graph.scope}/{layer.name}"
    emitted = emit_layer(layer, replace(call, layer=layer), graph)
    graph.scope = outer
    return emitted if isinstance(emitted, ir.Value) else emitted[0]


@emits("Flip", of="ops")
def _flip(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    value = call[0]
    for axis in call.axes(layer.axis):
        if axis == 1:
            value = turn_around(value, graph)
        else:
            places = np.arange(call.size(axis))[::-1]
            value = graph.op("Gather", value, graph.constant(places, "places"), axis=axis)
    return value

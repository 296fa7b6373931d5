"""A Keras 3 model becomes the sequence graph: standard ONNX operators over `(batch, time, features)`.

Layers are emitted one by one (`layers/`, one small function a layer, in a table), so that LSTM, GRU and SimpleRNN
arrive as the ONNX operators of these names. Nothing here runs the model, and no TensorFlow is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.errors import ConversionError, UnsupportedLayerError
from edgernn.quantize.graph import Builder, identifier

__all__ = ["Emitter", "emits", "from_keras", "refuse"]

Emit = Callable[[Any, Sequence[ir.Value], "Emitter"], ir.Value]
_LAYERS: dict[str, Emit] = {}


def emits(*names: str) -> Callable[[Emit], Emit]:
    """Enter the function that emits layers of these classes into the table."""

    def enter(function: Emit) -> Emit:
        _LAYERS.update(dict.fromkeys(names, function))
        return function

    return enter


@dataclass
class Emitter(Builder):
    """A builder that knows which Keras tensor became which value."""

    name: str
    values: dict[int, ir.Value] = field(default_factory=dict)
    arguments: Any = None
    """Of the call that is being emitted: `args` and `kwargs`, for layers that take more than tensors."""

    def __post_init__(self) -> None:
        Builder.__init__(self, self.name)


def from_keras(model: Any) -> ir.Model:
    """Emit `model` (a built Functional or Sequential) as a sequence graph.

    Inputs keep their Keras names and have the shape `(batch, time, features)`. Raises `UnsupportedLayerError` naming
    the layer that has no rule, `ConversionError` for a model that is not a graph of layers.
    """
    import edgernn.quantize.layers  # noqa: F401  (fills the table)

    graph = _functional(model)
    emitter = Emitter(model.name)
    for tensor in graph.inputs:
        emitter.values[id(tensor)] = _input(emitter, tensor)
    outputs = _emit_graph(graph, emitter)
    emitter.scope = ""
    for name, value in zip(_output_names(graph), outputs, strict=True):
        emitter.output(value, identifier(name))
    return emitter.finish()


def refuse(layer: Any, reason: str, way_out: str = "") -> UnsupportedLayerError:
    """Make the error that names a layer, the reason, and what can be done."""
    return UnsupportedLayerError(
        f"layer '{layer.name}' ({type(layer).__name__}): {reason}" + (f"; {way_out}" if way_out else "")
    )


def _functional(model: Any) -> Any:
    if type(model).__name__ == "Sequential":
        if not model.built:
            raise ConversionError(f"the Sequential model '{model.name}' is not built: give it an Input first")
        model = model._functional
    if not hasattr(model, "operations") or not getattr(model, "inputs", None):
        raise ConversionError(
            f"'{model.name}' ({type(model).__name__}) is not a graph of layers; expected a Functional or Sequential "
            "model: rebuild it with keras.Model(inputs, outputs)"
        )
    return model


def _input(emitter: Emitter, tensor: Any) -> ir.Value:
    if len(tensor.shape) != 3 or tensor.shape[2] is None:
        raise ConversionError(
            f"the input {tensor.name} has the shape {tensor.shape}; expected (batch, time, features) with a fixed "
            "number of features"
        )
    layer = tensor._keras_history.operation
    return emitter.input(identifier(layer.name), ["batch", "time", int(tensor.shape[2])])


def _emit_graph(graph: Any, emitter: Emitter) -> list[ir.Value]:
    wanted = {id(node) for nodes in graph._nodes_by_depth.values() for node in nodes}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if id(node) in wanted and not node.is_input:
                _emit_node(node, emitter)
    return [emitter.values[id(tensor)] for tensor in graph.outputs]


def _emit_node(node: Any, emitter: Emitter) -> None:
    layer = node.operation
    inputs = [emitter.values[id(tensor)] for tensor in node.input_tensors]
    outer = emitter.scope
    emitter.scope = f"{outer}/{layer.name}" if outer else layer.name
    emitter.arguments = node.arguments
    if hasattr(layer, "operations"):
        value = _emit_nested(layer, inputs, emitter)
    else:
        value = _emitter_of(layer)(layer, inputs, emitter)
    emitter.scope = outer
    first, *rest = node.outputs
    emitter.values[id(first)] = value
    for tensor in rest:  # states that a recurrent layer also returns: found out if somebody uses them
        emitter.values[id(tensor)] = _Refused(layer)


def _emit_nested(model: Any, inputs: Sequence[ir.Value], emitter: Emitter) -> ir.Value:
    graph = _functional(model)
    emitter.values.update(zip(map(id, graph.inputs), inputs, strict=True))
    outputs = _emit_graph(graph, emitter)
    if len(outputs) != 1:
        raise refuse(model, f"a nested model with {len(outputs)} outputs", "give it one, or take it apart")
    return outputs[0]


def _emitter_of(layer: Any) -> Emit:
    emit = _LAYERS.get(type(layer).__name__)
    known = type(layer).__module__.split(".")[0] == "keras"
    if emit is None or not known:
        own = "" if known else " of your own"
        raise refuse(
            layer,
            f"there is no rule for this layer{own}",
            f"build it from layers that have one: {', '.join(sorted(_LAYERS))}",
        )
    return emit


def _output_names(graph: Any) -> list[str]:
    names = [getattr(tensor._keras_history.operation, "name", "output") for tensor in graph.outputs]
    return [name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)]


class _Refused(ir.Value):
    """Stands for a second output of a layer, which no rule emits."""

    def __init__(self, layer: Any) -> None:
        super().__init__(name=f"{layer.name}:state")


def constant_input(value: Any) -> np.ndarray | None:
    """Return a call argument that is a number or an array, None for a Keras tensor."""
    if hasattr(value, "_keras_history"):
        return None
    return np.asarray(value, np.float32)

"""A Keras 3 model becomes the sequence graph: standard ONNX operators over `(batch, time, features)`.

Layers are emitted one by one (`layers/`, one small function a layer, in a table), so that LSTM, GRU and SimpleRNN
arrive as the ONNX operators of these names. Nothing here runs the model, and no TensorFlow is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from edgernn.errors import ConversionError, UnsupportedLayerError
from edgernn.quantize.graph import Builder, identifier

__all__ = ["Emitter", "emits", "from_keras", "refuse"]

Emit = Callable[[Any, Sequence[ir.Value], "Emitter"], ir.Value]
_LAYERS: dict[str, Emit] = {}
REFUSED_ARGUMENTS = {
    "initial_state": ("it is given an initial state", "start from zeros: a stream begins with a reset"),
    "mask": ("it is given a mask", "a stream has no padding to mask: call it without"),
    "training": ("it is called with training=True", "let Keras decide when it trains: call it without"),
}
"""Call arguments of layers that have no meaning in a stream: why, and what to do."""
NO_RULE = {
    "Bidirectional": ("its backward half needs the end of the sequence first", "train the wrapped layer alone"),
    "Embedding": ("its input is a number, not a frame", "feed the vectors themselves as (batch, time, features)"),
    "Flatten": ("it lays all frames side by side", "end in the last frame or in GlobalAveragePooling1D"),
    "Lambda": ("it holds code that cannot be read", "write it with layers or with operators such as x * 0.5"),
    "Masking": ("a stream has no padding to mask", "leave it out"),
}
"""Layers whose lack of a rule has a reason of its own."""


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
    _check_layers(graph)
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


def _check_layers(graph: Any) -> None:
    """Refuse what no rule can emit, before anything else is found wrong with the model."""
    for node in sorted(_nodes(graph), key=lambda node: type(node.operation).__name__ not in NO_RULE):
        if _is_model(node.operation):
            _check_layers(_functional(node.operation))
            continue
        _emitter_of(node.operation)
        _check_settings(node.operation)
        for name, (reason, way_out) in REFUSED_ARGUMENTS.items():
            given = node.arguments.kwargs.get(name)
            if given is not None and given is not False:
                raise refuse(node.operation, reason, way_out)


def _check_settings(layer: Any) -> None:
    """Refuse what any layer may be set to and no rule reads."""
    if getattr(layer, "data_format", None) == "channels_first":
        raise refuse(layer, "its data_format is channels_first", "use channels_last: (batch, time, features)")
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        raise refuse(layer, "its weights are quantized, or have LoRA beside them", "save the model as it was before")
    if getattr(layer, "variable_dtype", None) in ("float16", "bfloat16"):
        raise refuse(layer, f"its weights are {layer.variable_dtype}", "copy them into a model of dtype float32")


def _nodes(graph: Any) -> list[Any]:
    """Return the calls of layers in the order in which they can be computed."""
    depths = sorted(graph._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in graph._nodes_by_depth[depth] if not node.is_input]


def _is_model(layer: Any) -> bool:
    return hasattr(layer, "operations") or type(layer).__name__ == "Sequential"


def _input(emitter: Emitter, tensor: Any) -> ir.Value:
    if len(tensor.shape) != 3 or tensor.shape[2] is None:
        raise ConversionError(
            f"the input {tensor.name} has the shape {tensor.shape}; expected (batch, time, features) with a fixed "
            "number of features"
        )
    layer = tensor._keras_history.operation
    return emitter.input(identifier(layer.name), ["batch", "time", int(tensor.shape[2])])


def _emit_graph(graph: Any, emitter: Emitter) -> list[ir.Value]:
    for node in _nodes(graph):
        _emit_node(node, emitter)
    return [_value_of(tensor, emitter) for tensor in graph.outputs]


def _value_of(tensor: Any, emitter: Emitter) -> ir.Value:
    value = emitter.values.get(id(tensor))
    if value is None:
        layer = tensor._keras_history.operation
        raise refuse(
            layer,
            "one of its outputs after the first is used, such as its final state",
            "use the first output only: in a stream the state is carried, not given",
        )
    return value


def _emit_node(node: Any, emitter: Emitter) -> None:
    layer = node.operation
    inputs = [_value_of(tensor, emitter) for tensor in node.input_tensors]
    outer = emitter.scope
    emitter.scope = f"{outer}/{layer.name}" if outer else layer.name
    emitter.arguments = node.arguments
    emit = _emit_nested if _is_model(layer) else _emitter_of(layer)
    # no rule emits a second output: `_value_of` refuses it where it is used
    emitter.values[id(node.outputs[0])] = emit(layer, inputs, emitter)
    emitter.scope = outer


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
        if known and type(layer).__name__ in NO_RULE:
            raise refuse(layer, *NO_RULE[type(layer).__name__])
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

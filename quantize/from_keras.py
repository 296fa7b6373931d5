"""A Keras 3 model becomes the sequence graph: standard ONNX operators over `(batch, time, features...)`.

Layers are emitted one by one (`layers/`, one small function a layer, in a table), so that LSTM, GRU and SimpleRNN
arrive as the ONNX operators of these names. What is said of axes is translated as it is: whether an operator can be
streamed is for the rules of `streaming` to say. Nothing here runs the model, and no TensorFlow is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.errors import ConversionError
from edgernn.quantize.contexts import Asked, Contexts, contexts_of
from edgernn.quantize.graph import Builder, identifier
from edgernn.quantize.layer_call import Call, Tensor, refuse
from edgernn.quantize.supported import instead_of
from edgernn.quantize.trace import Trace, trace_layer

__all__ = ["Call", "Emitted", "Emitter", "emit_layer", "emit_trace", "emits", "from_keras", "refuse", "with_rules"]

Emitted = ir.Value | Sequence[ir.Value]
Emit = Callable[[Any, Call, "Emitter"], Emitted]
_LAYERS: dict[tuple[str, str], Emit] = {}
_MASKED: dict[Emit, bool | str] = {}
"""By family (see `_family`) and class name: a function of keras.ops may be called like a layer."""
REFUSED_ARGUMENTS = {
    "training": ("it is called with training=True", "let Keras decide when it trains: call it without"),
}
"""Call arguments of layers that have no meaning in a stream: why, and what to do."""
NO_RULE = {
    "Discretization": ("it makes whole numbers of what it is given", "count the bins outside of the model"),
    "Lambda": ("it holds code that cannot be read", "write it with layers or with operators such as x * 0.5"),
}
"""Layers whose lack of a rule has a reason of its own."""


def emits(*names: str, of: str = "layers", masked: bool | str = False) -> Callable[[Emit], Emit]:
    """Enter the function that emits layers of these classes into the table; `of="ops"` for functions of keras.ops.

    It is given the layer, its `Call` (a sequence of the values that it is called on, and what else is known of the
    call), and the graph to emit to; it returns one value, or one for each output. `masked` says that it heeds a mask,
    or that the layer does not; "given" that it heeds one that is an argument, and none that its input brings. All
    others are refused where they are given one.
    """

    def enter(function: Emit) -> Emit:
        _LAYERS.update({(family, name): function for family in of.split() for name in names})
        if masked:
            _MASKED[function] = masked
        return function

    return enter


def with_rules(family: str) -> list[str]:
    """Return the names of a family, such as "layers" or "ops", that the table has (once something has filled it)."""
    return sorted(name for kind, name in _LAYERS if kind == family)


@dataclass
class Emitter(Builder):
    """A builder that knows which Keras tensor became which value."""

    name: str
    values: dict[int, ir.Value] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)
    """What must live on while the ids of its tensors are in `values`."""

    def __post_init__(self) -> None:
        Builder.__init__(self, self.name)


def from_keras(model: Any, contexts: Asked | None = None) -> ir.Model:
    """Emit `model` (a built Functional or Sequential) as a sequence graph.

    Inputs keep their Keras names and have the shape `(batch, time, features...)`, but for its contexts, which have no
    time: those that `contexts` asks for, and those that `contexts_of` can tell. Raises `UnsupportedLayerError` naming
    the layer that has no rule, `ConversionError` for a model that is not a graph of layers.
    """
    import edgernn.quantize.layers  # noqa: F401  (fills the table)

    graph = _functional(model)
    _check_layers(graph)
    emitter = Emitter(model.name)
    found = contexts_of(graph, contexts)
    for tensor in graph.inputs:
        emitter.values[id(tensor)] = _input(emitter, tensor, found)
    outputs = _emit_graph(graph, emitter)
    emitter.scope = ""
    for name, value in zip(_output_names(graph), outputs, strict=True):
        emitter.output(value, identifier(name))
    return emitter.finish()


def emit_layer(layer: Any, call: Call, graph: Emitter) -> Emitted:
    """Emit a call of a layer, also of one that is inside another one, or of a nested model."""
    if _is_model(layer):
        return _emit_nested(layer, call, graph)
    _check_settings(layer)
    return _emitter_of(layer)(layer, call, graph)


def emit_trace(traced: Trace, graph: Emitter, outer: int = 0) -> list[ir.Value]:
    """Emit the operations that traced code calls; `outer` as in `Call`."""
    graph.kept.append(traced)
    graph.values.update(zip(map(id, traced.inputs), traced.values, strict=True))
    return _emit_graph(traced, graph, outer)


def _functional(model: Any) -> Any:
    if type(model).__name__ == "Sequential":
        if not model.built:
            raise ConversionError(f"the Sequential model '{model.name}' is not built: give it an Input first")
        model = model._functional
    if not hasattr(model, "operations") or not getattr(model, "inputs", None):
        raise ConversionError(
            f"'{model.name}' ({type(model).__name__}) is not a graph of layers; expected a Functional or Sequential "
            "model: rebuild it with keras.Model(inputs, outputs), or trace it with edgernn.quantize.source_of"
        )
    return model


def _check_layers(graph: Any) -> None:
    """Refuse what no rule can emit, before anything else is found wrong with the model."""
    for node in sorted(_nodes(graph), key=lambda node: type(node.operation).__name__ not in NO_RULE):
        layer = node.operation
        given = node.arguments.kwargs
        if _is_model(layer):
            _check_layers(_functional(layer))
        elif _is_unheard(node, _MASKED.get(_emitter_of(layer))):
            raise refuse(layer, "it is given a mask", UNMASKED)
        else:
            _emitter_of(layer)
            _check_settings(layer)
        for name, (reason, way_out) in REFUSED_ARGUMENTS.items():
            if given.get(name) is not None and given[name] is not False:
                raise refuse(layer, reason, way_out)


UNMASKED = (
    "recurrent layers that go forward and GlobalAveragePooling1D heed one here; a stream brings no padding, which a "
    "mask is for: save the model without it (no Masking, mask_zero=False; the weights stay as they are)"
)


def _is_unheard(node: Any, heard: bool | str | None) -> bool:
    """Tell whether a layer heeds a mask in Keras, given as an argument or brought by its input, and not here."""
    call, given = getattr(node.operation, "call", None), node.arguments.kwargs.get("mask") is not None
    heeds = call is not None and any(name.endswith("_mask") or name == "mask" for name in signature(call).parameters)
    brought = heeds and any(getattr(item, "_keras_mask", None) is not None for item in node.arguments.keras_tensors)
    return ((given or brought) and not heard) or (brought and heard == "given")


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


_NUMBERS = ("float32", "float16", "float64", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")


def _input(emitter: Emitter, tensor: Any, contexts: Contexts) -> ir.Value:
    layer, features = tensor._keras_history.operation, tensor.shape[2:]
    if len(tensor.shape) < 2 or None in features:
        raise ConversionError(
            f"the input {tensor.name} has the shape {tensor.shape}; expected (batch, time, features...) with a fixed "
            "number of features"
        )
    if tensor.dtype not in _NUMBERS:
        raise ConversionError(f"the input {tensor.name} is of {tensor.dtype}; expected one of {', '.join(_NUMBERS)}")
    dtype = ir.DataType.from_numpy(np.dtype(tensor.dtype))
    size = contexts.get(layer.name, "time")
    return emitter.input(identifier(layer.name), ["batch", size, *map(int, features)], dtype)


def _emit_graph(graph: Any, emitter: Emitter, outer: int = 0) -> list[ir.Value]:
    for node in _nodes(graph):
        _emit_node(node, emitter, outer)
    return [_value_of(tensor, emitter) for tensor in graph.outputs]


def _value_of(tensor: Any, emitter: Emitter) -> ir.Value:
    value = emitter.values.get(id(tensor))
    if value is None:
        raise refuse(
            tensor._keras_history.operation,
            "one of its outputs after the first is used, such as its final state",
            "use the first output only: in a stream the state is carried, not given",
        )
    return value


def _emit_node(node: Any, emitter: Emitter, depth: int) -> None:
    layer = node.operation

    def known(argument: Any) -> Any:
        is_tensor = hasattr(argument, "_keras_history")
        return Tensor(_value_of(argument, emitter), tuple(argument.shape), argument.dtype) if is_tensor else argument

    args, kwargs = node.arguments.convert(known)
    if not args:  # a layer called with its input by name
        args, kwargs = [kwargs.pop(next(iter(kwargs)))], kwargs
    call = Call(layer, tuple(args), kwargs, tuple(item.dtype for item in node.outputs), depth)
    outer = emitter.scope
    emitter.scope = f"{outer}/{layer.name}" if outer else layer.name
    emitted = emit_layer(layer, call, emitter)
    emitter.scope = outer
    values = [emitted] if isinstance(emitted, ir.Value) else emitted
    # a rule may leave out outputs after the first: `_value_of` refuses them where they are used
    emitter.values.update(zip(map(id, node.outputs), values, strict=False))


def _emit_nested(model: Any, call: Call, emitter: Emitter) -> Emitted:
    if call.mask is not None:
        raise refuse(model, "a nested model is given a mask", "let the layer that masks be a part of it")
    graph = _functional(model)
    emitter.values.update(zip(map(id, graph.inputs), call, strict=True))
    return _emit_graph(graph, emitter, call.outer)


def _emitter_of(layer: Any) -> Emit:
    name, family = type(layer).__name__, _family(layer)
    emit = _LAYERS.get((family, name))
    if emit is not None:
        return emit
    if family == "layers" and name in NO_RULE:
        raise refuse(layer, *NO_RULE[name])
    if family not in ("", "layers") or not hasattr(layer, "weights"):
        raise refuse(layer, "there is no rule for this operation", instead_of(name, with_rules(family)))
    return _emit_code


def _emit_code(layer: Any, call: Call, graph: Emitter) -> Emitted:
    """Emit a layer that has no rule of its own by what its code calls."""
    return emit_trace(trace_layer(call), graph, call.outer)


def _family(layer: Any) -> str:
    """Return which part of Keras a layer or operation is from: "layers", "ops", "activations"; of others nothing."""
    first, *rest = type(layer).__module__.split(".")
    return next(iter(part for part in rest if part != "src"), "") if first == "keras" else ""


def _output_names(graph: Any) -> list[str]:
    names = [getattr(tensor._keras_history.operation, "name", "output") for tensor in graph.outputs]
    return [name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)]

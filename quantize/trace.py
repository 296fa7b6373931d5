"""Python code that calls Keras on symbolic tensors, as the graph of the operations that it calls.

An activation function, and the `call` of a layer or model, become graphs like any other where they are written with
Keras' layers and the functions of keras.ops. A call that looks at values, or hands its tensors to another framework,
cannot be traced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from edgernn.errors import ConversionError, UnsupportedLayerError
from edgernn.quantize.layer_call import Call, Tensor

__all__ = ["Trace", "functional", "trace", "trace_layer"]


def functional(model: Any, inputs: Any = None) -> Any:
    """Return a model as a Functional one: itself, or what the `call` of a subclassed one does on symbolic `inputs`.

    Without `inputs` (a keras.Input, or a list or dict of them, as `call` takes them) these are frames of float32, of
    the shapes that the model was first called on. Raises `ConversionError` for one that was never called, and
    `UnsupportedLayerError` for one that cannot be traced.
    """
    import keras

    if isinstance(model, keras.Sequential) or getattr(model, "inputs", None):
        return model
    entered = _as_called(model) if inputs is None else inputs
    training = {"training": False} if getattr(model, "_call_has_training_arg", False) else {}
    where = f"'{model.name}' ({type(model).__name__})"
    return keras.Model(entered, _traced(lambda: model.call(entered, **training), where), name=model.name)


def _as_called(model: Any) -> Any:
    import keras

    shapes = (getattr(model, "_build_shapes_dict", None) or {}).values()
    if len(shapes) != 1:
        raise ConversionError(
            f"'{model.name}' is a model of a class of its own that was never called: call it on an example first, or "
            "give its inputs"
        )

    def symbolic(shape: Any, name: str) -> Any:
        if isinstance(shape, dict):
            return {key: symbolic(item, key) for key, item in shape.items()}
        if isinstance(shape, list) or (shape and not isinstance(shape[0], int | None)):
            return [symbolic(item, f"{name}_{place}") for place, item in enumerate(shape)]
        return keras.Input((None, *shape[2:]), name=name)

    return symbolic(next(iter(shapes)), "frames")


class Trace:
    """A graph of operations, like a Functional model: `inputs` (standing for `values`), `outputs`, nodes between."""

    def __init__(self, inputs: list[Any], values: list[ir.Value], outputs: Any) -> None:
        import keras
        from keras import Function

        self.structure = outputs
        """As the code returned them."""
        self.inputs, self.values, self.outputs = inputs, values, keras.tree.flatten(outputs)
        strange = [item for item in self.outputs if not hasattr(item, "_keras_history")]
        if strange:
            raise TypeError(f"it returns {type(strange[0]).__name__}, which does not depend on the input")
        self._nodes_by_depth = Function(inputs, self.outputs)._nodes_by_depth if self.outputs else {}


def trace(function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], where: str) -> Trace:
    """Call `function` with a symbolic tensor for each `Tensor` among its arguments.

    Raises `UnsupportedLayerError`, beginning with `where`, for code that cannot be traced.
    """
    import keras

    inputs: list[Any] = []
    values: list[ir.Value] = []

    def symbolic(argument: Any) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        inputs.append(keras.Input(batch_shape=argument.shape, dtype=argument.dtype))
        values.append(argument.value)
        return inputs[-1]

    entered, named = keras.tree.map_structure(symbolic, (tuple(args), dict(kwargs)))
    traced: Trace = _traced(lambda: Trace(inputs, values, function(*entered, **named)), where)
    return traced


def _traced(code: Callable[[], Any], where: str) -> Any:
    try:
        return code()
    except Exception as error:  # it is anybody's code
        raise UnsupportedLayerError(
            f"{where}: its code cannot be traced ({type(error).__name__}: {' '.join(str(error).split())[:160]}); "
            "write it with Keras' layers and the functions of keras.ops alone"
        ) from error


def trace_layer(call: Call) -> Trace:
    """Trace the `call` method of a layer, in inference."""
    kwargs = {name: value for name, value in call.kwargs.items() if name not in ("training", "mask")}
    if getattr(call.layer, "_call_has_training_arg", False):
        kwargs["training"] = False
    if call.mask is not None:
        kwargs["mask"] = call.kwargs["mask"]
    where = f"layer '{call.layer.name}' ({type(call.layer).__name__})"
    return trace(call.layer.call, call.args, kwargs, where)

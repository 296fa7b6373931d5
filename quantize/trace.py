"""Python code that calls Keras on symbolic tensors, as the graph of the operations that it calls.

An activation function, and the `call` of a layer or model, become graphs like any other where they are written with
Keras' layers and the functions of keras.ops. A call that looks at values, or hands its tensors to another framework,
cannot be traced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.layer_call import Call, Tensor

__all__ = ["Trace", "trace", "trace_layer"]


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
    try:
        return Trace(inputs, values, function(*entered, **named))
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

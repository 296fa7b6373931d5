"""What there is without EdgeRNN: one step written by hand in TensorFlow, quantized by the stock converter.

States are inputs and outputs of the step. Calibrated on the real trajectories of its states, as a careful user would;
each end of a state still gets a scale of its own, so that the state is requantized in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.quantize.stepping import open_tflite
from edgernn.spec import QuantParams

__all__ = ["PlainStep", "plain_int8"]

Array = NDArray[np.float32]
CALIBRATION_STEPS = 500


class PlainStep:
    """A quantized step by the stock converter; integers go in and out, and the caller converts, as in its manual."""

    def __init__(self, content: bytes, states: Sequence[str]) -> None:
        self.content = content
        self.states = states
        self._run = open_tflite(content).get_signature_runner()
        self._inputs, self._outputs = self._run.get_input_details(), self._run.get_output_details()

    def __call__(self, frames: Array) -> Array:
        """Step from zero states through `frames`, shape `(frames, features)`; return the outputs, a row each."""
        values = {name: np.zeros(self._inputs[name]["shape"], np.float32) for name in self.states}
        rows = []
        for frame in frames:
            fed = {"x": frame[None], **values}
            result = self._run(**{name: _quantize(value, self._inputs[name]) for name, value in fed.items()})
            real = {name: _dequantize(value, self._outputs[name]) for name, value in result.items()}
            values = {name: real[f"{name}_out"] for name in self.states}
            rows.append(real["y"][0])
        return np.stack(rows)


def _quantize(value: Array, details: dict[str, Any]) -> NDArray[Any]:
    return QuantParams(*details["quantization"]).quantize(value, "int8")


def _dequantize(value: NDArray[Any], details: dict[str, Any]) -> Array:
    return QuantParams(*details["quantization"]).dequantize(value)


def plain_int8(model: Any, frames: Array) -> PlainStep:
    """Convert the step of a Keras model (LSTM and GRU layers, then Dense) with the stock converter, fully to int8."""
    import tensorflow as tf

    step, states = _step_of(model)
    shapes = {"x": (1, frames.shape[1]), **states}
    signature = [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in shapes.items()]
    function = tf.function(step, input_signature=signature, autograph=False)

    def examples() -> Iterator[dict[str, Any]]:
        values = {name: np.zeros(shape, np.float32) for name, shape in states.items()}
        for frame in frames[:CALIBRATION_STEPS]:
            fed = {"x": frame[None], **values}
            yield fed
            result = function(*fed.values())
            values = {name: result[f"{name}_out"].numpy() for name in states}

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = examples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return PlainStep(converter.convert(), list(states))


Step = Callable[..., dict[str, Any]]


def _step_of(model: Any) -> tuple[Step, dict[str, tuple[int, int]]]:
    """Return the step as plain TensorFlow operations on the layers' weights, and the shapes of its states."""
    layers = [layer for layer in model.layers if type(layer).__name__ in ("LSTM", "GRU", "Dense")]
    weights = {layer.name: layer.get_weights() for layer in layers}
    states: dict[str, tuple[int, int]] = {}
    for layer in layers:
        for letter in {"LSTM": "hc", "GRU": "h"}.get(type(layer).__name__, ""):
            states[f"{layer.name}_{letter}"] = (1, layer.units)

    def step(x: Any, *values: Any) -> dict[str, Any]:
        old = dict(zip(states, values, strict=True))
        new: dict[str, Any] = {}
        for layer in layers:
            if type(layer).__name__ == "Dense":
                x = layer.activation(x @ weights[layer.name][0] + weights[layer.name][1])
                continue
            entering = [old[name] for name in states if name[:-2] == layer.name]
            leaving = (_lstm if len(entering) == 2 else _gru)(x, *entering, *weights[layer.name])
            new.update(zip([f"{name}_out" for name in states if name[:-2] == layer.name], leaving, strict=True))
            x = leaving[0]
        return {"y": x, **new}

    return step, states


def _lstm(x: Any, h: Any, c: Any, kernel: Array, recurrent: Array, bias: Array) -> list[Any]:
    """Keras' LSTM: gates in the order i, f, c, o."""
    import tensorflow as tf

    i, f, z, o = tf.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(z)
    return [tf.sigmoid(o) * tf.tanh(c), c]


def _gru(x: Any, h: Any, kernel: Array, recurrent: Array, bias: Array) -> list[Any]:
    """Keras' GRU with reset_after: gates in the order z, r, h."""
    import tensorflow as tf

    x_z, x_r, x_n = tf.split(x @ kernel + bias[0], 3, axis=-1)
    h_z, h_r, h_n = tf.split(h @ recurrent + bias[1], 3, axis=-1)
    z = tf.sigmoid(x_z + h_z)
    n = tf.tanh(x_n + tf.sigmoid(x_r + h_r) * h_n)
    return [n + z * (h - n)]

"""Makes the TFLite files beside it, which are committed; needs TensorFlow.

python tests/devices/models/make.py
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

HERE = Path(__file__).parent


TESTS = runpy.run_path(str(HERE.parent / "conftest.py"))
H, F = TESTS["UNITS"], TESTS["FEATURES"]
LSTM = {"x": (1, 1, F), "h_in": (1, H), "c_in": (1, H)}
DELAY = {"x": (1, 1, 2), "old_in": (1, 2), "older_in": (1, 2)}
HOLD = {"x": (1, 1, 2), "sum_in": (1, 2)}
ENERGY = {"x": (1, 1, 40), "mean_in": (1, 40)}


def main() -> None:
    """Convert and write each model."""
    for function, shapes in ((lstm, LSTM), (int8, LSTM), (delay, DELAY), (hold, HOLD), (energy, ENERGY)):
        content = convert(function, shapes, quantized=function is int8)
        (HERE / f"{function.__name__}.tflite").write_bytes(content)


def cell(x: Any, h: Any, c: Any, fake: Callable[..., Any]) -> dict[str, Any]:
    w = TESTS["lstm_weights"]()
    gates = fake(tf.matmul(tf.reshape(x, (1, F)), w["kernel"]) + tf.matmul(h, w["recurrent"]) + w["bias"], 8)
    i, o, f, g = tf.split(gates, 4, axis=1)
    i, o, f = (fake(tf.sigmoid(gate), 1, -128) for gate in (i, o, f))
    c = fake(fake(f * c, 4) + fake(i * fake(tf.tanh(g), 1), 1), 4)
    h = fake(o * fake(tf.tanh(c), 1), 1)
    y = fake(tf.matmul(h, w["out"]) + w["out_bias"], 4, 7)
    return {"y": y, "h_out": h, "c_out": c}


def lstm(x: Any, h_in: Any, c_in: Any) -> dict[str, Any]:
    return cell(x, h_in, c_in, lambda value, *_: value)


def int8(x: Any, h_in: Any, c_in: Any) -> dict[str, Any]:
    def fake(value: Any, limit: float, zero: int = 0) -> Any:
        scale = limit / (256 if zero == -128 else 128)
        return tf.quantization.fake_quant_with_min_max_args(value, (-128 - zero) * scale, (127 - zero) * scale)

    return cell(fake(x, 4, 5), fake(h_in, 1), fake(c_in, 4), fake)


def delay(x: Any, old_in: Any, older_in: Any) -> dict[str, Any]:
    return {"y": older_in, "old_out": tf.reshape(x, (1, 2)), "older_out": old_in}


def hold(x: Any, sum_in: Any) -> dict[str, Any]:
    total = sum_in + tf.reshape(x, (1, 2))
    return {"y": total, "sum_out": total}


def energy(x: Any, mean_in: Any) -> dict[str, Any]:
    mean = 0.9 * mean_in + 0.1 * tf.reshape(x, (1, 40))
    loud = tf.reduce_mean(mean, axis=1, keepdims=True) - TESTS["LOUD"]
    return {"y": tf.concat([2 * loud, -2 * loud], axis=1), "mean_out": mean}


def convert(function: Callable[..., Any], shapes: dict[str, tuple[int, ...]], quantized: bool) -> bytes:
    module = tf.Module()
    module.step = tf.function(function, [tf.TensorSpec(shape, name=name) for name, shape in shapes.items()])
    concrete = module.step.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    if quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    content: bytes = converter.convert()
    return content


if __name__ == "__main__":
    main()

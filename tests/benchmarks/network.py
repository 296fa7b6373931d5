"""The network of the benchmark, in every form that a row of the table needs."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.cli import main

__all__ = [
    "FEATURES",
    "FRAMES",
    "OUTPUTS",
    "STATES",
    "UNITS",
    "WINDOW",
    "Array",
    "convert_with_edgernn",
    "make_plain_onnx",
    "make_reference",
    "make_stock_tflite",
    "network",
    "stepping_network",
    "weights_of",
]

Array = NDArray[np.float32]

FEATURES, UNITS, OUTPUTS = 40, 128, 12
STATES = ("h1", "c1", "h2", "c2")
WINDOW = 100  # frames: one second, where a frame is new every 10 ms
FRAMES: Array = np.random.default_rng(0).normal(size=(WINDOW, FEATURES)).astype(np.float32)


def network(stateful: bool, frames: int | None, every_frame: bool = False) -> Any:
    """Return it as a Keras model, with an output for the last frame or for every frame."""
    import keras

    return keras.Sequential(
        [
            keras.Input((frames, FEATURES), batch_size=1 if stateful or frames else None),
            keras.layers.LSTM(UNITS, return_sequences=True, stateful=stateful),
            keras.layers.LSTM(UNITS, return_sequences=every_frame, stateful=stateful),
            keras.layers.Dense(OUTPUTS),
        ]
    )


def weights_of(folder: Path) -> list[Array]:
    """Return the weights that `make_reference` wrote, in the order of Keras."""
    with np.load(folder / "weights.npz") as weights:
        return list(weights.values())


def make_reference(folder: Path) -> None:
    """Write the Keras model, its weights, and what it gives for the whole sequence."""
    import keras

    keras.utils.set_random_seed(0)
    model = network(stateful=False, frames=None, every_frame=True)
    model.save(folder / "model.keras")
    np.savez(folder / "weights.npz", *model.get_weights())
    np.save(folder / "outputs.npy", model.predict(FRAMES[None], verbose=0)[0])


def stepping_network() -> Any:
    """Return it as a Keras model of one frame, with its states as inputs and outputs."""
    import keras

    x = keras.Input((1, FEATURES), batch_size=1, name="x")
    h1, c1, h2, c2 = states = [keras.Input((UNITS,), batch_size=1, name=name) for name in STATES]
    y, *out1 = keras.layers.LSTM(UNITS, return_sequences=True, return_state=True)(x, initial_state=[h1, c1])
    y, *out2 = keras.layers.LSTM(UNITS, return_state=True)(y, initial_state=[h2, c2])
    outputs = {f"{name}_out": state for name, state in zip(STATES, out1 + out2, strict=True)}
    return keras.Model([x, *states], {"y": keras.layers.Dense(OUTPUTS)(y), **outputs})


def make_stock_tflite(folder: Path) -> None:
    """Convert with the stock converter: a frame with hidden states, one with open states, and the whole window."""
    import tensorflow as tf

    models = {"stateful": network(True, 1), "step": stepping_network(), "window": network(False, WINDOW)}
    for name, model in models.items():
        model.set_weights(weights_of(folder))
        for scheme in ("float32", "dynamic-int8"):
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            converter.optimizations = [] if scheme == "float32" else [tf.lite.Optimize.DEFAULT]
            with contextlib.redirect_stdout(io.StringIO()):  # Keras tells what it exports
                (folder / f"{name}-{scheme}.tflite").write_bytes(converter.convert())


def make_plain_onnx(folder: Path) -> None:
    """Write what an exporter makes of the step: LSTM nodes, states as inputs and outputs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    *cells, kernel, bias = weights_of(folder)
    i, f, c, o = (np.arange(UNITS) + gate * UNITS for gate in range(4))
    to_onnx = np.concatenate([i, o, f, c])  # ONNX packs i, o, f, c; Keras i, f, c, o
    nodes, weights, below = [], {"kernel": kernel, "bias": bias}, "x"
    for n in (1, 2):
        w, r, b = (array[..., to_onnx] for array in cells[3 * n - 3 : 3 * n])
        weights |= {f"w{n}": w.T[None], f"r{n}": r.T[None], f"b{n}": np.concatenate([b, 0 * b])[None]}
        inputs = [below, f"w{n}", f"r{n}", f"b{n}", "", f"h{n}", f"c{n}"]
        nodes.append(helper.make_node("LSTM", inputs, [f"y{n}", f"h{n}_out", f"c{n}_out"], hidden_size=UNITS))
        nodes.append(helper.make_node("Squeeze", [f"y{n}", "directions"], [f"z{n}"]))
        below = f"z{n}"
    nodes += [helper.make_node("MatMul", [below, "kernel"], ["m"]), helper.make_node("Add", ["m", "bias"], ["y"])]
    weights["directions"] = np.array([1])

    def value(name: str, size: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, size))

    graph = helper.make_graph(
        nodes,
        "plain",
        [value("x", FEATURES), *(value(state, UNITS) for state in STATES)],
        [value("y", OUTPUTS), *(value(f"{state}_out", UNITS) for state in STATES)],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "plain.onnx")


def convert_with_edgernn(folder: Path) -> None:
    """Convert with the command line, each scheme to an artifact."""
    for scheme in ("dynamic-int8", "float32", "int8"):
        arguments = [str(folder / "model.keras"), "-o", str(folder / scheme), "--to", "tflite,onnx"]
        with contextlib.redirect_stdout(io.StringIO()):
            status = main(["convert", *arguments, "--quantize", scheme])
        if status:
            raise SystemExit(status)

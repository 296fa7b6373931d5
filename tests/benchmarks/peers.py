"""The ways to run one step of the network: a function each, which opens it and returns the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgernn.artifact import Artifact
from edgernn.devices.runner import open_model
from tests.benchmarks.network import FEATURES, OUTPUTS, STATES, UNITS, WINDOW, Array, network, weights_of

__all__ = ["BARS", "ROWS", "Row", "Step"]

Step = Callable[[Array], Array]
BARS = {"by hand, EdgeRNN's model": 3.0, "without EdgeRNN": 3.0, "recomputing the window": 100.0}
"""How many times faster than the best of these EdgeRNN must be."""


def edgernn(scheme: str, kind: str) -> Callable[[Path], Step]:
    """Step the artifact, as a program that uses EdgeRNN does."""

    def open_step(folder: Path) -> Step:
        runner = open_model(Artifact.open(folder / scheme).model(kind))
        return lambda frame: runner.step(frame)[0]

    return open_step


def loop_on_our_step(folder: Path) -> Step:
    """Copy frame and states in, output and states out, as one writes it by hand; on EdgeRNN's own step model."""
    model = Artifact.open(folder / "dynamic-int8").model("tflite")
    names = [(state.input, state.output) for state in model.spec.states]
    return _loop(model.path, model.spec.inputs[0].name, model.spec.outputs[0].name, names)


def loop_on_stock_step(folder: Path) -> Step:
    """Do the same on what the stock converter makes of a Keras model that takes and gives its states."""
    return _loop(folder / "step-dynamic-int8.tflite", "x", "y", [(name, f"{name}_out") for name in STATES])


def _loop(path: Path, source: str, target: str, states: Sequence[tuple[str, str]]) -> Step:
    interpreter = _interpreter(path)
    signature = interpreter.get_signature_runner("serving_default")
    inputs, outputs = signature.get_input_details(), signature.get_output_details()
    values = [np.zeros(inputs[name]["shape"], np.float32) for name, _ in states]
    into, out_of = [inputs[name]["index"] for name, _ in states], [outputs[name]["index"] for _, name in states]
    frame_index, output_index = inputs[source]["index"], outputs[target]["index"]

    def step(frame: Array) -> Array:
        interpreter.set_tensor(frame_index, frame)
        for index, value in zip(into, values, strict=True):
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        values[:] = [interpreter.get_tensor(index) for index in out_of]
        result: Array = interpreter.get_tensor(output_index)
        return result

    return step


def signature_runner(folder: Path) -> Step:
    """Call EdgeRNN's step model by its signature, as the manual of TFLite has it."""
    model = Artifact.open(folder / "dynamic-int8").model("tflite")
    call = _interpreter(model.path).get_signature_runner("serving_default")
    source, target = model.spec.inputs[0].name, model.spec.outputs[0].name
    states = {state.input: state.initial_array() for state in model.spec.states}

    def step(frame: Array) -> Array:
        outputs = call(**{source: frame}, **states)
        for state in model.spec.states:
            states[state.input] = outputs[state.output]
        result: Array = outputs[target]
        return result

    return step


def stock_tflite(name: str) -> Callable[[Path], Step]:
    """Run what TFLiteConverter.from_keras_model makes of the network: stateful on a frame, or on a window."""

    def open_step(folder: Path) -> Step:
        interpreter = _interpreter(folder / f"{name}.tflite")
        (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

        def step(frames: Array) -> Array:
            interpreter.set_tensor(source["index"], frames)
            interpreter.invoke()
            result: Array = interpreter.get_tensor(target["index"])
            return result

        return step

    return open_step


def onnx_run(folder: Path) -> Step:
    """Call ONNX Runtime's run() on the plain export, two LSTM nodes whose states are inputs and outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "plain.onnx", options, providers=["CPUExecutionProvider"])
    states = [np.zeros((1, 1, UNITS), np.float32) for _ in range(4)]

    def step(frame: Array) -> Array:
        feeds = {"x": frame, "h1": states[0], "c1": states[1], "h2": states[2], "c2": states[3]}
        output, *states[:] = session.run(None, feeds)
        result: Array = output
        return result

    return step


def keras_function(folder: Path) -> Step:
    """Call the stateful Keras model in a compiled tf.function."""
    import tensorflow as tf

    model = network(stateful=True, frames=1)
    model.set_weights(weights_of(folder))
    call = tf.function(model, input_signature=[tf.TensorSpec((1, 1, FEATURES))], reduce_retracing=True)

    def step(frame: Array) -> Array:
        result: Array = call(tf.constant(frame)).numpy()
        return result

    return step


def torch_eager(folder: Path) -> Step:
    """Call torch.nn.LSTM on one frame, eagerly, and hand it its state back."""
    import torch

    torch.set_num_threads(1)
    lstm, dense = torch.nn.LSTM(FEATURES, UNITS, num_layers=2), torch.nn.Linear(UNITS, OUTPUTS)
    *cells, kernel, bias = map(torch.from_numpy, weights_of(folder))
    with torch.no_grad():
        dense.weight.copy_(kernel.T), dense.bias.copy_(bias)
        for layer in range(2):
            w, r, b = cells[3 * layer : 3 * layer + 3]  # both frameworks pack the gates as i, f, g (c), o
            for name, value in {"weight_ih": w.T, "weight_hh": r.T, "bias_ih": b, "bias_hh": 0 * b}.items():
                getattr(lstm, f"{name}_l{layer}").copy_(value)
    states = None

    def step(frame: Array) -> Array:
        nonlocal states
        with torch.inference_mode():
            hidden, states = lstm(torch.from_numpy(frame), states)
            result: Array = dense(hidden).numpy()
        return result

    return step


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


@dataclass(frozen=True)
class Row:
    """One way to run the network."""

    name: str
    package: str
    """What it runs in; the row is left out where that is not installed."""
    open: Callable[[Path], Step]
    shape: tuple[int, ...] = (1, 1, FEATURES)
    """Shape of the array that its step takes."""
    bar: str = ""
    """Which of the bars it counts for."""


BY_HAND, WITHOUT, RECOMPUTED = BARS
LITERT, ONE_FRAME, WHOLE_WINDOW = "ai-edge-litert", (1, FEATURES), (1, WINDOW, FEATURES)
ROWS = (  # the first is what the others are compared with
    Row("EdgeRNN, TFLite, dynamic-int8", LITERT, edgernn("dynamic-int8", "tflite"), ONE_FRAME),
    Row("EdgeRNN, TFLite, float32", LITERT, edgernn("float32", "tflite"), ONE_FRAME),
    Row("EdgeRNN, TFLite, int8", LITERT, edgernn("int8", "tflite"), ONE_FRAME),
    Row("EdgeRNN, ONNX, float32", "onnxruntime", edgernn("float32", "onnx"), ONE_FRAME),
    Row("EdgeRNN, ONNX, dynamic-int8", "onnxruntime", edgernn("dynamic-int8", "onnx"), ONE_FRAME),
    Row("set_tensor/get_tensor, EdgeRNN's model", LITERT, loop_on_our_step, bar=BY_HAND),
    Row("signature runner, EdgeRNN's model", LITERT, signature_runner, bar=BY_HAND),
    Row("set_tensor/get_tensor, stock TFLite, dynamic-int8", LITERT, loop_on_stock_step, bar=WITHOUT),
    Row("stock TFLite, stateful, float32", LITERT, stock_tflite("stateful-float32"), bar=WITHOUT),
    Row("stock TFLite, stateful, dynamic-int8", LITERT, stock_tflite("stateful-dynamic-int8"), bar=WITHOUT),
    Row("ONNX Runtime, run() on the plain export", "onnxruntime", onnx_run, bar=WITHOUT),
    Row("Keras, stateful, in a tf.function", "tensorflow", keras_function, bar=WITHOUT),
    Row("PyTorch, eager", "torch", torch_eager, bar=WITHOUT),
    Row("stock TFLite, window, float32", LITERT, stock_tflite("window-float32"), WHOLE_WINDOW, RECOMPUTED),
    Row("stock TFLite, window, dynamic-int8", LITERT, stock_tflite("window-dynamic-int8"), WHOLE_WINDOW, RECOMPUTED),
)

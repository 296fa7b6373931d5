"""The converters that are compared: what each makes of a Keras model, and how its file is then run.

A conversion gives a `Converted`: the file, and a function that opens it as a program would and gives two others, one
that runs a whole stream and one that does the work of one new frame. What cannot carry a state from call to call does
that by running a whole window again.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.artifact import Artifact
from edgernn.cli import main
from edgernn.devices.runner import open_model
from edgernn.stream import Runner
from tests.benchmarks.rolled import FEATURES, WINDOW, build, frames

__all__ = ["TOOLS", "Converted", "Tool"]

Array = NDArray[np.float32]
BOUNDED = ("--bidirectional", "chunk=16,lookahead=16")


@dataclass(frozen=True)
class Converted:
    """One file, opened."""

    path: Path
    stream: Callable[[Array], Array] | None
    """Runs a stream of any length, shape `(frames, FEATURES)`, and gives every output; None where it cannot."""
    window: Callable[[Array], Array] | None
    """Runs WINDOW frames at once."""
    once: Callable[[], Any]
    """Does the work of one new frame."""
    steps: bool
    """Whether a new frame costs one step, and not a whole window."""
    frames_per_call: int = 1


Convert = Callable[[str, str, Path], Converted]


@dataclass(frozen=True)
class Tool:
    """One way from Keras to a file."""

    name: str
    schemes: tuple[str, ...]
    convert: Convert
    needs: str = ""
    """Package that it is in, where that is not one of EdgeRNN's own."""


def edgernn(kind: str) -> Convert:
    """`edgernn convert`, then the runner."""

    def convert(model: str, scheme: str, folder: Path) -> Converted:
        build(model).save(folder / "model.keras")
        np.save(folder / "calibration.npy", frames(1000, seed=1))
        extra = BOUNDED if model.startswith("Bidirectional") else ()
        if scheme == "integer-only":
            scheme, extra = "int8", (*extra, "--target", "integer-only")
        arguments = [
            *("convert", str(folder / "model.keras"), "-o", str(folder / "artifact"), "--to", kind, "-q"),
            *("--quantize", scheme, "--calibrate", str(folder / "calibration.npy"), *extra),
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            if main(arguments):
                raise RuntimeError("edgernn convert failed")
        file = Artifact.open(folder / "artifact").model(kind)
        runner = open_model(file)
        size = file.spec.frames_per_step
        frame = frames(size)
        return Converted(
            file.path, lambda x: _step_all(runner, x), None, lambda: runner.step(frame), True, frames_per_call=size
        )

    return convert


def _step_all(runner: Runner, x: Array) -> Array:
    """Return what belongs to each frame, the delay of the output taken off."""
    runner.reset()
    size, delay = runner.spec.frames_per_step, runner.spec.output_delays[0]
    whole = np.concatenate([x, np.zeros((-len(x) % size, FEATURES), np.float32)])
    outputs = [np.array(runner.step(whole[start : start + size])[0]) for start in range(0, len(whole), size)]
    every: Array = np.concatenate([output.reshape(-1, output.shape[-1]) for output in outputs])
    return every[delay:]


def stock_tflite(model: str, scheme: str, folder: Path) -> Converted:
    """`TFLiteConverter.from_keras_model` of a rolled model over a window."""
    path = _stock(build(model, WINDOW), scheme, folder, WINDOW)
    run = _interpreter(path)
    window = frames(WINDOW)
    return Converted(path, None, run, lambda: run(window), False)


def stock_stateful(model: str, scheme: str, folder: Path) -> Converted:
    """`TFLiteConverter.from_keras_model` of a stateful model on one frame."""
    path = _stock(build(model, 1, stateful=True), scheme, folder, 1)
    run = _interpreter(path)
    frame = frames(1)
    return Converted(path, lambda x: _each(_interpreter(path), x), None, lambda: run(frame), True)


def _each(run: Callable[[Array], Array], x: Array) -> Array:
    return np.stack([run(one[None]) for one in x])


def _stock(model: Any, scheme: str, folder: Path, length: int) -> Path:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if scheme != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme in ("int8", "16x8"):
        examples = frames(20 * length, seed=1).reshape(20, 1, length, FEATURES)
        converter.representative_dataset = lambda: ([example] for example in examples)
        special = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8 if scheme == "int8" else special]
    with contextlib.redirect_stdout(io.StringIO()):  # Keras tells what it exports
        content = converter.convert()
    path = folder / "model.tflite"
    path.write_bytes(content)
    return path


def _interpreter(path: Path) -> Callable[[Array], Array]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x: Array) -> Array:
        interpreter.set_tensor(source["index"], x[None])
        interpreter.invoke()
        result: Array = interpreter.get_tensor(target["index"])[0]
        return result.reshape(-1, result.shape[-1]) if len(x) > 1 else result.reshape(-1)

    return run


def exported(export: Callable[[Any, Path], None], quantize: bool = False) -> Convert:
    """Export to ONNX over sequences of any length, and let ONNX Runtime quantize that where asked for."""

    def convert(model: str, scheme: str, folder: Path) -> Converted:
        path = folder / "model.onnx"
        export(build(model), path)
        if quantize:
            path = _ort_quantized(path, scheme)
        run = _session(path)
        window = frames(WINDOW)
        return Converted(path, run, None, lambda: run(window), False)

    return convert


def tf2onnx(model: Any, path: Path) -> None:
    """Convert with tf2onnx, its own way in."""
    import tensorflow as tf
    import tf2onnx.convert

    signature = [tf.TensorSpec((1, None, FEATURES), name="x")]
    tf2onnx.convert.from_function(tf.function(model), input_signature=signature, opset=17, output_path=str(path))


def keras_export(model: Any, path: Path) -> None:
    """Convert with Keras' own export."""
    model(np.zeros((1, WINDOW, FEATURES), np.float32))  # it exports only what has been called
    model.export(path, format="onnx", verbose=False)


def _ort_quantized(path: Path, scheme: str) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

    target = path.with_name("quantized.onnx")
    if scheme == "dynamic-int8":
        quantize_dynamic(path, target)
        return target

    class Examples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            name = _open_session(path).get_inputs()[0].name
            self.waiting = [{name: part[None]} for part in frames(20 * WINDOW, seed=1).reshape(20, WINDOW, FEATURES)]

        def get_next(self) -> Any:
            return self.waiting.pop() if self.waiting else None

    quantize_static(path, target, Examples())
    return target


def _session(path: Path) -> Callable[[Array], Array]:
    session = _open_session(path)
    name = session.get_inputs()[0].name

    def run(x: Array) -> Array:
        result: Array = session.run(None, {name: x[None]})[0][0]
        return result.reshape(-1, result.shape[-1])

    return run


def _open_session(path: Path) -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


TOOLS = (
    Tool("EdgeRNN, TFLite", ("float32", "dynamic-int8", "int8", "integer-only", "int4"), edgernn("tflite")),
    Tool("EdgeRNN, ONNX", ("float32", "weights-int8", "dynamic-int8", "int8", "int4"), edgernn("onnx")),
    Tool("TFLite converter, rolled", ("float32", "dynamic-int8", "int8", "16x8"), stock_tflite),
    Tool("TFLite converter, stateful", ("float32", "dynamic-int8", "int8", "16x8"), stock_stateful),
    Tool("tf2onnx", ("float32",), exported(tf2onnx), "tf2onnx"),
    Tool("Keras' ONNX export", ("float32",), exported(keras_export), "tf2onnx"),
    Tool("tf2onnx + ONNX Runtime quantizer", ("dynamic-int8", "int8"), exported(tf2onnx, quantize=True), "tf2onnx"),
)

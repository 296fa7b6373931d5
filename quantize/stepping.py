"""Stepping a model file plainly, with dictionaries and copies: the converter's own check of what it wrote.

A device uses `edgernn.devices`; this has nothing in common with it, so that each can be tested against the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.machine import int8_overflows
from edgernn.quiet import quiet_stderr
from edgernn.spec import RESET, STREAMS, StreamSpec, TensorSpec

__all__ = ["Invoke", "invoke_onnx", "invoke_tflite", "invoker", "open_onnx", "open_tflite", "steps"]

Arrays = dict[str, NDArray[Any]]
Invoke = Callable[..., Arrays]
"""Runs a model file once: arrays by input name to arrays by output name; of a TFLite file also another `signature`."""


def invoker(content: bytes, kind: str) -> Invoke:
    """Return a function that runs a file of format `kind` once."""
    return invoke_tflite(content) if kind == "tflite" else invoke_onnx(content)


def open_tflite(content: bytes) -> Any:
    """Return a LiteRT interpreter of one thread, with its tensors allocated."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet_stderr():
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        for item in interpreter.get_input_details():  # what memory happens to hold is in no table of words
            interpreter.set_tensor(item["index"], np.zeros(item["shape"], item["dtype"]))
    return interpreter


def open_onnx(content: bytes) -> Any:
    """Return an ONNX Runtime session of one thread."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # nobody asked for reports to a third party
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is fatal: an error is raised, too
    options.add_session_config_entry("session.x64quantprecision", str(int(int8_overflows())))
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)


def invoke_tflite(content: bytes) -> Invoke:
    """Return a function that runs a TFLite file with LiteRT, on one thread."""
    interpreter = open_tflite(content)
    runners: dict[str, Any] = {}

    def invoke(inputs: Arrays, signature: str = "serving_default") -> Arrays:
        if signature not in runners:
            runners[signature] = interpreter.get_signature_runner(signature)
        result: Arrays = runners[signature](**inputs)
        return result

    return invoke


def invoke_onnx(content: bytes) -> Invoke:
    """Return a function that runs an ONNX file with ONNX Runtime, on one thread."""
    session = open_onnx(content)
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def steps(invoke: Invoke, spec: StreamSpec, frames: Sequence[NDArray[Any]]) -> Iterator[Arrays]:
    """Step from reset through one stream, or through a batch of them.

    `frames` has an array for each input, shape `(frames, features...)` or, where a step serves several streams,
    `(batch, frames, features...)`, then one for each context; what does not fill a step at the end is left. Yields, for
    each step, the real (dequantized) outputs by name.
    """
    carried = spec.states if spec.state_placement == "external" else ()
    if spec.state_placement == "internal":
        invoke({STREAMS: np.ones(spec.batch, np.bool_)}, RESET)
    state = {item.input: item.initial_array() for item in carried}
    initial = dict(state)
    size, lanes = spec.frames_per_step, [array[None] if spec.batch == 1 else array for array in frames]
    lanes, given = lanes[: len(spec.inputs)], lanes[len(spec.inputs) :]
    held = {item.name: _encode(item, array) for item, array in zip(spec.contexts, given, strict=True)}
    for number in range(lanes[0].shape[1] // size):
        chunk = slice(number * size, (number + 1) * size)
        fed = {item.name: _encode(item, array[:, chunk]) for item, array in zip(spec.inputs, lanes, strict=True)}
        result = invoke({**fed, **held, **state})
        for item in carried:
            state[item.input] = initial[item.input] if number < item.hold_steps else result[item.output]
        yield {item.name: _decode(item, result[item.name]) for item in spec.outputs}


def _encode(item: TensorSpec, real: NDArray[Any]) -> NDArray[Any]:
    return item.quant.quantize(real, item.dtype) if item.quant else real.astype(item.dtype)


def _decode(item: TensorSpec, array: NDArray[Any]) -> NDArray[np.float32]:
    return item.quant.dequantize(array) if item.quant else array.astype(np.float32)

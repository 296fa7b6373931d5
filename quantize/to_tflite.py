"""The step graph to a TFLite file: by the stock converter in a child process, then quantized here."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgernn.errors import ConversionError
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.child import last_line, run_child
from edgernn.quantize.examples import Streams
from edgernn.quantize.schemes import Scheme
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import open_tflite
from edgernn.quantize.streaming import StepGraph
from edgernn.quantize.target import CPU, Target, check_floor
from edgernn.quantize.tflite_graph import TFLiteGraph
from edgernn.quantize.tflite_half import half_weights
from edgernn.quantize.tflite_quantize import quantize
from edgernn.spec import QuantParams, StreamSpec

__all__ = ["plain_tflite", "quantized_tflite", "to_tflite"]

PATIENCE_S = 600


def to_tflite(
    step: StepGraph, scheme: Scheme, streams: Streams | None = None, target: Target = CPU
) -> tuple[bytes, StreamSpec]:
    """Return the file's bytes and the spec with the dtypes and scales that its tensors really have.

    `streams` are examples, for the schemes that are calibrated. Raises `ConversionError` whatever the converter does
    (fail, crash, hang), and where an operator cannot be had on the target.
    """
    plain, spec = plain_tflite(step)
    return quantized_tflite(plain, spec, scheme, streams, target)


def plain_tflite(step: StepGraph) -> tuple[bytes, StreamSpec]:
    """Return the file as the converter writes it, in float32, and the spec."""
    apart = replace(step, model=simplify(decompose_cells(step.model, by_activation=True)))
    with tempfile.TemporaryDirectory(prefix="edgernn-") as folder:
        source, target = Path(folder, "step.onnx"), Path(folder, "step.tflite")
        ir.save(apart.model, source)
        _run_child([str(source), str(target)])
        if not target.is_file():
            raise ConversionError(
                "the TensorFlow Lite converter ended without an error and wrote no file; try --to onnx"
            )
        return target.read_bytes(), apart.spec()


def quantized_tflite(
    plain: bytes, spec: StreamSpec, scheme: Scheme, streams: Streams | None = None, target: Target = CPU
) -> tuple[bytes, StreamSpec]:
    """Return a file of `plain_tflite` in a scheme, for a target, and its spec; see `to_tflite`."""
    if scheme.name == "float32":
        content = TFLiteGraph(plain).content()
    elif scheme.name == "float16":
        content = half_weights(plain)
    else:
        content = quantize(plain, spec, scheme.name, streams, target)
    if scheme.name != "float32":
        _run_once(content)
    if target.floor:
        check_floor(TFLiteGraph(content), target.floor)
    return content, _with_tensors(spec, content)


def _run_once(content: bytes) -> None:
    """Let a fresh file run where a crash of the kernels ends only a child process."""
    with tempfile.TemporaryDirectory(prefix="edgernn-") as folder:
        path = Path(folder, "step.tflite")
        path.write_bytes(content)
        _run_child([str(path)])


def _run_child(arguments: list[str]) -> None:
    try:
        result = run_child("edgernn.quantize.tflite_child", arguments, PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise ConversionError(
            f"the TensorFlow Lite converter did not end within {PATIENCE_S} s and was stopped; try --to onnx"
        ) from None
    if result.returncode < 0:
        raise ConversionError(
            f"the TensorFlow Lite converter, or the file that it made, crashed (signal {-result.returncode}); "
            "try another --quantize, or --to onnx"
        )
    if result.returncode != 0:
        reason = last_line(result.stderr)
        raise ConversionError(f"the TensorFlow Lite converter refused this model: {reason}")


def _with_tensors(spec: StreamSpec, content: bytes) -> StreamSpec:
    """Read dtypes and scales back from the file, and check that each state has one."""
    inputs, outputs = _signature(content)
    states = []
    for state in spec.states:
        entering, leaving = inputs[state.input], outputs[state.output]
        if entering != leaving:
            raise ConversionError(
                f"the converter gave the state {state.name} two formats: {entering} going in, {leaving} coming out"
            )
        states.append(replace(state, dtype=entering[0], quant=entering[1]))
    return replace(
        spec,
        inputs=tuple(replace(t, dtype=inputs[t.name][0], quant=inputs[t.name][1]) for t in spec.inputs),
        outputs=tuple(replace(t, dtype=outputs[t.name][0], quant=outputs[t.name][1]) for t in spec.outputs),
        states=tuple(states),
        contexts=tuple(replace(t, dtype=inputs[t.name][0], quant=inputs[t.name][1]) for t in spec.contexts),
    )


Format = tuple[str, QuantParams | None]


def _signature(content: bytes) -> tuple[dict[str, Format], dict[str, Format]]:
    runner = open_tflite(content).get_signature_runner()
    return _formats(runner.get_input_details()), _formats(runner.get_output_details())


def _formats(details: Mapping[str, Any]) -> dict[str, Format]:
    formats: dict[str, Format] = {}
    for name, item in details.items():
        scale, zero = item["quantization"]
        quant = QuantParams(float(scale), int(zero)) if scale else None
        formats[name] = (item["dtype"].__name__, quant)
    return formats

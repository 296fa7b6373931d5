"""int8 over thousands of steps with trained weights, beside ONNX Runtime's own quantizer on the same step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgernn.quantize.calibrate import observe
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.examples import Streams, one_stream, read_streams
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.simplify import simplify
from edgernn.quantize.source import load_source
from edgernn.quantize.stepping import invoke_onnx, steps
from edgernn.quantize.streaming import StepGraph, stream
from edgernn.quantize.to_onnx import to_onnx
from edgernn.spec import StreamSpec
from tests.quantize.networks import Array

TRAINED = Path(__file__).parents[2] / "train/pretrained/keyword-crnn"  # convolutions and a GRU of 128 units
STEPS, PART = 5000, 500


@cache
def trained() -> tuple[StepGraph, StepGraph, StreamSpec, Streams]:
    source = load_source(TRAINED)
    step = stream(source.graph())
    kept = replace(step, model=simplify(step.model))
    apart = replace(step, model=simplify(decompose_cells(step.model)))
    assert source.calibration is not None
    return kept, apart, kept.spec(), read_streams(source.calibration, kept.spec().inputs, None)


@cache
def outputs(scheme: str) -> Array:
    """Return the logits of every step, `(steps, classes)`."""
    kept, apart, spec, streams = trained()
    content = _plain(streams) if scheme == "plain" else to_onnx(kept, apart, spec, SCHEMES[scheme], _ranges())[0]
    walked = steps(invoke_onnx(content), spec, one_stream(streams, STEPS * spec.frames_per_step, 1))
    return np.stack([step[spec.outputs[0].name].reshape(-1) for step in walked])


@cache
def _ranges() -> Any:
    return observe(trained()[1], trained()[3])


def _plain(streams: Streams) -> bytes:
    """Quantize the very same step with onnxruntime.quantization, calibrated on real trajectories of its states."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    kept, apart, spec, _ = trained()
    invoke = invoke_onnx(ir.to_proto(kept.model).SerializeToString())

    def walk() -> Iterator[dict[str, Array]]:
        for arrays in streams[:12]:
            state = {item.input: item.initial_array() for item in spec.states}
            for start in range(0, len(arrays[0]), spec.frames_per_step):
                chunk = arrays[0][None, start : start + spec.frames_per_step]
                yield {spec.inputs[0].name: chunk, **state}
                result = invoke({spec.inputs[0].name: chunk, **state})
                state = {item.input: result[item.output] for item in spec.states}

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items = walk()

        def get_next(self) -> dict[str, Array] | None:
            return next(self.items, None)

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "step.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(ir.to_proto(apart.model).SerializeToString())
        logging.disable(logging.WARNING)  # it advises to preprocess, which our graph needs no more
        quantize_static(source, target, Reader(), per_channel=True, activation_type=QuantType.QUInt8)
        logging.disable(logging.NOTSET)
        return target.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["dynamic-int8", "int8"])
def test_the_error_does_not_grow_with_time(scheme: str) -> None:
    error = np.abs(outputs(scheme) - outputs("float32")).mean(axis=1)
    parts = error.reshape(-1, PART).mean(axis=1)
    slope = np.polyfit(np.arange(len(parts)), parts, 1)[0] * len(parts)
    assert abs(slope) < 0.2 * parts.mean(), "of its mean, over all steps"
    assert parts[-1] < 1.3 * parts[0]


@pytest.mark.slow
@pytest.mark.parametrize("steps_taken", [PART, STEPS])
def test_the_worst_error_is_at_most_a_third_of_plain_quantization(steps_taken: int) -> None:
    truth = outputs("float32")[:steps_taken]
    ours, plain = (float(np.abs(outputs(name)[:steps_taken] - truth).max()) for name in ("int8", "plain"))
    assert 0 < ours < plain / 3

"""Which values a step graph takes on real streams: it is stepped through them, states and all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.errors import DataError
from edgernn.quantize.graph import shape_of
from edgernn.quantize.stepping import invoke_onnx
from edgernn.quantize.streaming import StepGraph

__all__ = ["Ranges", "observe"]

Ranges = dict[str, tuple[float, float]]
"""Smallest and largest value by name."""

MOST_STEPS = 6000


def observe(step: StepGraph, streams: Sequence[Sequence[NDArray[Any]]]) -> Ranges:
    """Step the float graph from reset through each stream and return the range of every value.

    A stream has an array for each input, shape `(frames, features...)`. The states are those that the model really
    reaches, not random tensors: their distribution is what decides how well int8 carries them. A step for several
    streams is given as many different ones; where they differ in length, the shorter ones begin again.
    """
    invoke = invoke_onnx(_with_all_outputs(step.model).SerializeToString())
    inputs = [value.name or "" for value in step.model.graph.inputs]
    outputs = [value.name or "" for value in step.model.graph.outputs]
    state_inputs, state_outputs = inputs[step.inputs :], outputs[len(step.timings) :]
    shapes = {value.name: shape_of(value) for value in step.model.graph.inputs}
    initial = {
        name: np.full(shapes[name], state.initial, np.float32)
        for name, state in zip(state_inputs, step.states, strict=True)
    }
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    taken = 0
    for lanes in _lanes(streams, step.batch):
        state = dict(initial)
        for number in range(lanes[0].shape[1] // step.frames_per_step):
            chunk = slice(number * step.frames_per_step, (number + 1) * step.frames_per_step)
            fed = {name: array[:, chunk] for name, array in zip(inputs, lanes, strict=False)}
            values = {**fed, **state}
            values.update(invoke(values))
            for name, array in values.items():
                low[name] = min(low.get(name, np.inf), float(array.min()))
                high[name] = max(high.get(name, -np.inf), float(array.max()))
            for name, output, item in zip(state_inputs, state_outputs, step.states, strict=True):
                state[name] = initial[name] if number < item.hold_steps else values[output]
            taken += 1
        if taken >= MOST_STEPS:
            break
    if not taken:
        raise DataError(f"no example stream is as long as one step: {step.frames_per_step} frames")
    return {name: (low[name], high[name]) for name in low}


def _lanes(streams: Sequence[Sequence[NDArray[Any]]], batch: int) -> Iterator[Sequence[NDArray[Any]]]:
    """Put `batch` streams at a time side by side: for each input an array `(batch, frames, features...)`."""
    for start in range(0, len(streams), batch):
        group = [streams[(start + lane) % len(streams)] for lane in range(batch)]
        frames = max(len(stream[0]) for stream in group)
        yield [
            np.stack([np.resize(array, (frames, *array.shape[1:])) for array in arrays])
            for arrays in zip(*group, strict=True)
        ]


def _with_all_outputs(model: ir.Model) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    known = {item.name for item in proto.graph.output}
    for node in proto.graph.node:
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name not in known)
    return proto

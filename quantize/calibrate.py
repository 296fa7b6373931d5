"""Which values a step graph takes on real streams: it is stepped through them, states and all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.errors import DataError
from edgernn.quantize.contexts import in_time
from edgernn.quantize.stepping import Invoke, invoke_onnx
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import StreamSpec

__all__ = ["Ranges", "observe", "ranges_over"]

Ranges = dict[str, tuple[float, float]]
"""Smallest and largest value by name."""

MOST_STEPS = 6000
INSIDE, OUTSIDE = ";inside", ";outside"  # a value of a Scan's body, as that gives it and as the Scan does


def observe(step: StepGraph, streams: Sequence[Sequence[NDArray[Any]]]) -> Ranges:
    """Return the range of every value of the float graph over the streams, those inside a Scan among them."""
    ranges = ranges_over(invoke_onnx(_with_all_outputs(step.model).SerializeToString()), step.spec(), streams)
    return {name.removesuffix(OUTSIDE): span for name, span in ranges.items()}


def ranges_over(invoke: Invoke, spec: StreamSpec, streams: Sequence[Sequence[NDArray[Any]]]) -> Ranges:
    """Step from reset through each stream and return the range of everything that goes in and comes out.

    A stream has an array for each input, shape `(frames, features...)`, then one for each context. The states are those
    that the model really reaches, not random tensors: their distribution is what decides how well int8 carries them. A
    step for several streams is given as many different ones; where they differ in length, the shorter ones begin again.
    """
    initial = {state.input: state.initial_array() for state in spec.states}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    taken = 0
    for lanes in _lanes(streams, spec):
        state = dict(initial)
        held = {item.name: array for item, array in zip(spec.contexts, lanes[len(spec.inputs) :], strict=True)}
        for number in range(lanes[0].shape[1] // spec.frames_per_step):
            chunk = slice(number * spec.frames_per_step, (number + 1) * spec.frames_per_step)
            fed = {item.name: array[:, chunk] for item, array in zip(spec.inputs, lanes, strict=False)}
            values = {**fed, **held, **state}
            values.update(invoke(values))
            for name, array in values.items():
                low[name] = min(low.get(name, np.inf), float(array.min()))
                high[name] = max(high.get(name, -np.inf), float(array.max()))
            for item in spec.states:
                state[item.input] = initial[item.input] if number < item.hold_steps else values[item.output]
            taken += 1
        if taken >= MOST_STEPS:
            break
    if not taken:
        raise DataError(f"no example stream is as long as one step: {spec.frames_per_step} frames")
    return {name: (low[name], high[name]) for name in low}


def _lanes(streams: Sequence[Sequence[NDArray[Any]]], spec: StreamSpec) -> Iterator[Sequence[NDArray[Any]]]:
    """Put as many streams as a step serves side by side: for each input an array `(batch, frames, features...)`."""
    for start in range(0, len(streams), spec.batch):
        group = [streams[(start + lane) % len(streams)] for lane in range(spec.batch)]
        frames = max(len(stream[0]) for stream in group)
        each = [in_time(stream, len(spec.inputs), partial(_resized, frames=frames)) for stream in group]
        yield [np.stack(arrays) for arrays in zip(*each, strict=True)]


def _resized(array: NDArray[Any], frames: int) -> NDArray[Any]:
    return np.resize(array, (frames, *array.shape[1:]))


def _with_all_outputs(model: ir.Model) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    known = {item.name for item in proto.graph.output}
    for node in proto.graph.node:
        if node.op_type == "Scan":
            _show_all(node)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name not in known)
    return proto


def _show_all(scan: onnx.NodeProto) -> None:
    """Let a Scan give what every value of its body is in each frame."""
    attributes = {item.name: item for item in scan.attribute}
    body = attributes["body"].g
    names = [item.name for item in body.input] + [name for node in body.node for name in node.output]
    body.node.extend(onnx.helper.make_node("Identity", [name], [name + INSIDE]) for name in names)
    body.output.extend(onnx.ValueInfoProto(name=name + INSIDE) for name in names)
    scan.output.extend(name + OUTSIDE for name in names)
    attributes["scan_output_directions"].ints.extend([0] * len(names))

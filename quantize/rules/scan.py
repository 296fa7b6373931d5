"""Scan: a body for each frame; what it carries from frame to frame becomes named states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgernn.quantize.graph import array_of, attribute, identifier, scope_of
from edgernn.quantize.streaming import Kind, State, StepBuilder, Stepped, merge, refusal, rule, summed_up
from edgernn.quantize.timing import Timing

__all__: list[str] = []

AXES = ("scan_input_axes", "scan_output_axes", "scan_input_directions", "scan_output_directions")


@rule("Scan", kind=Kind.CAUSAL)
def scan(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Write the body out, once for each frame of the step."""
    if any(value for name in AXES for value in attribute(node, name, [])):
        raise refusal(node, "it goes backwards, or along another axis than the first", "let it go forwards")
    body, count = node.attributes["body"].as_graph(), len(inputs) - int(attribute(node, "num_scan_inputs", 1))
    final = any(output.consumers() or output.is_graph_output() for output in node.outputs[:count])
    sequences, timing = _aligned(node, inputs, count, final, step)
    names = [value.name or "state" for value in body.inputs]
    states = [_state(node, inputs[place], names[place], timing, step) for place in range(count)]
    carried, rows = [state.input for state in states], list[list[ir.Value]]()
    for frame in range(timing.frames):
        place = step.constant(np.array(frame), "frame")
        entering = [step.op("Gather", item.value, place, axis=0) for item in sequences]
        results = _once(body, [*carried, *entering], step)
        carried, rows = results[:count], [*rows, results[count:]]
    for state, value in zip(states, carried, strict=True):
        state.output = value
    step.scope = scope_of(node)
    axis = step.constant([0], "axis")
    stacks = [[step.op("Unsqueeze", value, axis) for value in row] for row in zip(*rows, strict=True)]
    every = [step.op("Concat", *stack, axis=0) for stack in stacks]
    summary = replace(timing, axis=None)
    return [*(Stepped(value, summary) for value in carried), *(Stepped(value, timing) for value in every)]


def _aligned(
    node: ir.Node, inputs: Sequence[Stepped | None], count: int, final: bool, step: StepBuilder
) -> tuple[list[Stepped], Timing]:
    """Bring the sequences to the same frame, and that to the beginning of a step; `final` states sum them up."""
    values, timing = merge(node, [*[None] * count, *inputs[count:]], step)
    if timing is None or any(item is None or item.timing is None or item.timing.axis != 0 for item in inputs[count:]):
        raise refusal(node, "time is not the axis that it goes along", "let it go along time")
    aligned = []
    for value, original in zip(values, node.inputs[count:], strict=True):
        item = Stepped(value, timing.on_axis(0))
        if original is not None:
            aligned.append(summed_up(node, original, item, step) if final else step.align(item, original))
    assert aligned[0].timing is not None
    return aligned, aligned[0].timing


def _state(node: ir.Node, initial: Stepped | None, name: str, timing: Timing, step: StepBuilder) -> State:
    if initial is None or not initial.value.is_initializer():
        raise refusal(node, "its initial state is computed", "start from zeros: a stream begins with a reset")
    array = array_of(initial.value)
    if np.ptp(array) != 0:
        raise refusal(node, "its initial state is not the same for all units", "start from zeros")
    return step.state(identifier(name.rpartition("/")[2]), array.shape, timing.hold_steps, float(array.flat[0]))


def _once(body: ir.Graph, entering: Sequence[ir.Value], step: StepBuilder) -> list[ir.Value]:
    """Copy the body; return its outputs."""
    mapped = dict(zip(body.inputs, entering, strict=True))
    for value in body.initializers.values():
        mapped[value] = step.constant(array_of(value), (value.name or "constant").rpartition("/")[2])
    for node in body:
        copied = step.copy(node, [None if value is None else mapped[value] for value in node.inputs])
        mapped.update(zip(node.outputs, copied, strict=True))
    return [mapped[value] for value in body.outputs]

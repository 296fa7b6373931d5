"""LSTM, GRU and RNN: what they carry from frame to frame becomes named states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.graph import array_of, attribute, plain_attributes
from edgernn.quantize.rules.bidirectional import backward, block_frames, is_backward
from edgernn.quantize.streaming import Kind, StepBuilder, Stepped, refusal, rule, summed_up, values_of

__all__: list[str] = []

INITIAL_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}  # indices of initial_h and initial_c
STATE_NAMES = ("h", "c")


@rule("LSTM", "GRU", "RNN", kind=Kind.CAUSAL, block=block_frames)
def recurrent(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Keep the operator, over the step's frames, and bind its initial and final states."""
    source = inputs[0]
    assert source is not None
    assert source.timing is not None
    assert node.inputs[0] is not None
    _check(node)
    places = INITIAL_STATES[node.op_type]
    if is_backward(node):
        return backward(node, inputs, [_initial(node, place) for place in places], step)
    if any(output.consumers() or output.is_graph_output() for output in node.outputs[1:]):
        source = summed_up(node, node.inputs[0], source, step)
    source = step.align(source, node.inputs[0])
    timing = source.timing
    assert timing is not None
    hidden = int(attribute(node, "hidden_size", 0))
    values = values_of(inputs) + [None] * (places[-1] + 1 - len(inputs))
    values[0] = source.value
    states, offsets = [], list[ir.Value | None]()
    for name, place in zip(STATE_NAMES, places, strict=False):
        offset = _offset(node, inputs, place, step)
        initial = 0.0 if offset is not None else _initial(node, place)
        states.append(step.state(name, (1, step.batch, hidden), timing.hold_steps, initial, batch_axis=1))
        values[place] = states[-1].input if offset is None else step.op("Add", states[-1].input, offset)
        offsets.append(offset)
    outputs = step.ops(node.op_type, values, 1 + len(states), plain_attributes(node))
    for state, offset, value in zip(states, offsets, outputs[1:], strict=True):
        state.output = value if offset is None else step.op("Sub", value, offset)
    final = replace(timing, axis=None)
    return [Stepped(outputs[0], timing.on_axis(0)), *(Stepped(value, final) for value in outputs[1:])]


def _check(node: ir.Node) -> None:
    if attribute(node, "layout", 0) != 0:
        raise refusal(node, "its layout is batch-first (layout=1)", "export it with layout=0")
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        raise refusal(node, "it takes the length of each sequence", "a stream has no length: remove that input")


def _offset(node: ir.Node, inputs: Sequence[Stepped | None], place: int, step: StepBuilder) -> ir.Value | None:
    """Return an initial state that is not one number: what is carried is the distance from it, from zero on."""
    given = inputs[place] if place < len(inputs) else None
    if given is None:
        return None
    if given.held:
        return given.value
    if given.timing is not None:
        raise refusal(node, "its initial state comes of the frames", "make it a context: an input that is given once")
    initial: NDArray[np.float32] = array_of(node.inputs[place])
    return step.constant(initial) if np.ptp(initial) != 0 else None


def _initial(node: ir.Node, place: int) -> float:
    if len(node.inputs) <= place or node.inputs[place] is None:
        return 0.0
    initial = array_of(node.inputs[place])
    if np.ptp(initial) != 0:
        raise refusal(node, "its initial state is not the same for all units", "start from zeros")
    return float(initial.flat[0])

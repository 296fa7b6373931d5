"""The streaming transformation: a graph over whole sequences becomes a step graph with explicit state.

Each operator has one small rule in a table (`rules/`), of one of four kinds:

- *pointwise* in time: unchanged;
- *causal* memory: what it needs of the past becomes a named state;
- a *window* that may look ahead: its past becomes a state, its output is as late as it looks ahead (exactly; see
  `Timing`), and parallel branches get delay lines where they meet;
- *whole* sequence: refused, or given as what the source would say for all frames so far ("prefix"), or in a bounded
  form that was asked for by name (`bounds`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from edgernn.errors import UnsupportedLayerError, UsageError
from edgernn.quantize.bounds import EXACT, MOST_AT_ONCE, Bounds
from edgernn.quantize.directions import split_directions
from edgernn.quantize.graph import ONE_STREAM, array_of, attribute, evaluate, identifier, scope_of
from edgernn.quantize.joining import merge, summed_up, together
from edgernn.quantize.mixing import KEEP_APART, run_together
from edgernn.quantize.refusal import refusal
from edgernn.quantize.step_builder import Pending, StepBuilder, Stepped, batch_axis, step_shape, values_of
from edgernn.quantize.step_graph import State, StepGraph
from edgernn.quantize.supported import instead_of
from edgernn.quantize.timing import Timing

__all__ = [
    "Kind",
    "Pending",
    "State",
    "StepBuilder",
    "StepGraph",
    "Stepped",
    "batch_axis",
    "merge",
    "operators_with_rules",
    "refusal",
    "rule",
    "step_shape",
    "stream",
    "summed_up",
    "together",
    "values_of",
]


class Kind(Enum):
    """What an operator needs of time."""

    POINTWISE = "pointwise"
    CAUSAL = "causal memory"
    WINDOW = "window"
    WHOLE = "whole sequence"


Rule = Callable[[ir.Node, Sequence[Stepped | None], "StepBuilder"], Sequence[Stepped]]
Stride = Callable[[ir.Node], Fraction | int]


@dataclass(frozen=True)
class _Entry:
    kind: Kind
    apply: Rule
    stride: Stride
    block: Callable[[ir.Node, Bounds], int]


_RULES: dict[str, _Entry] = {}
# zeros before them may stay unsaid
_KEEPS_ZEROS = (
    *("AveragePool", "Conv", "ConvTranspose", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "Squeeze", "Transpose"),
    "Unsqueeze",
)


def rule(
    *op_types: str,
    kind: Kind,
    stride: Stride = lambda node: 1,
    block: Callable[[ir.Node, Bounds], int] = lambda node, bounds: 1,
) -> Callable[[Rule], Rule]:
    """Enter a rule for some operators into the table.

    `stride` tells how many frames go in for one that comes out, `block` how many must come at once.
    """

    def enter(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(op_types, _Entry(kind, function, stride, block)))
        return function

    return enter


def stream(sequence: ir.Model, frames_per_step: int | None = None, batch: int = 1, bounds: Bounds = EXACT) -> StepGraph:
    """Turn a graph over whole sequences into a step graph for `batch` streams at once.

    A graph input has the shape `(batch, time, features...)`; one whose size is known behind the batch has no time, and
    is a context: given once, when a stream begins. A step takes `frames_per_step` frames: by
    default as few as the strides in time allow. `bounds` has the approximations that were asked for. Raises
    `UnsupportedLayerError` naming the node that has no streaming form, `UsageError` for a number of frames or streams
    that no step can take, or a bound that nothing in the model needs.
    """
    import edgernn.quantize.rules  # noqa: F401  (fills the table)

    if not 1 <= batch <= MOST_AT_ONCE:
        raise UsageError(f"a step serves at least one stream, not {batch}, and at most {MOST_AT_ONCE}")
    if batch > 1 and ONE_STREAM in sequence.metadata_props:
        raise UsageError(f"a step of this model serves one stream, not {batch}: {sequence.metadata_props[ONE_STREAM]}")
    apart = ONE_STREAM in sequence.metadata_props or run_together(sequence)
    sequence = split_directions(sequence)
    chunk = _chunk(_least_chunk(sequence, bounds), frames_per_step)
    builder = StepBuilder(sequence.graph.name or "step", batch, bounds)
    mapped: dict[ir.Value, Stepped] = {}
    contexts = _contexts(sequence)
    for value in (*(value for value in sequence.graph.inputs if value not in contexts), *contexts):
        sizes = [size for size in (value.shape or ())[1 if value in contexts else 2 :] if isinstance(size, int)]
        shape = [batch, *sizes] if value in contexts else [batch, chunk, *sizes]
        entering = builder.input(value.name or "input", shape, value.dtype or ir.DataType.FLOAT)
        mapped[value] = Stepped(entering, None if value in contexts else Timing(1, chunk, 1))
    for value in sequence.graph.initializers.values():
        mapped[value] = Stepped(builder.constant(array_of(value), value.name or "constant"))
    for node in sequence.graph:
        mapped.update(zip(node.outputs, _apply(node, mapped, builder), strict=False))
    if not apart:  # said last: a rule knows the node
        raise UnsupportedLayerError(f"the model takes one sequence, and not two at once; {KEEP_APART}")
    outputs = [
        (value.name or "output", builder.settle(_with_zeros(value, mapped[value], builder), value))
        for value in sequence.graph.outputs
    ]
    _refuse_unused(bounds, builder.approximations)
    return _finish(builder, outputs, chunk, len(contexts))


def _contexts(sequence: ir.Model) -> list[ir.Value]:
    """Return the inputs without time."""
    shapes = {value: tuple(value.shape or ()) for value in sequence.graph.inputs}
    return [value for value, shape in shapes.items() if shape and all(isinstance(size, int) for size in shape[1:])]


def _refuse_unused(bounds: Bounds, used: Collection[str]) -> None:
    for name, what in (
        ("bidirectional", "no layer that reads backwards"),
        ("pooling_window", "no pooling over all frames"),
        ("attention", "no attention that reaches further than that"),
        ("edges", "no summary of frames whose look-ahead is not there yet"),
    ):
        if getattr(bounds, name) and name not in used:
            raise UsageError(f"{replace(EXACT, **{name: getattr(bounds, name)})}: the model has {what}; leave it out")


def operators_with_rules() -> list[str]:
    """Return the ONNX operators that the table has (once `rules` has filled it)."""
    return sorted(_RULES)


def _apply(node: ir.Node, mapped: dict[ir.Value, Stepped], builder: StepBuilder) -> Sequence[Stepped]:
    inputs = [None if value is None else mapped[value] for value in node.inputs]
    builder.scope = scope_of(node)
    pending = next((item for item in inputs if isinstance(item, Pending)), None)
    if pending is not None:
        return pending.follow(node, inputs, builder)
    whole = not any(item.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for item in node.attributes.values())
    if inputs and whole and node.domain == "" and all(item is None or item.timing is None for item in inputs):
        if any(item is not None and item.held for item in inputs):
            return _of_contexts(node, inputs, builder)
        return [Stepped(builder.constant(array)) for array in evaluate(node, values_of(inputs))]
    entry = _RULES.get(node.op_type)
    if entry is None or node.domain not in ("", "ai.onnx"):
        raise refusal(node, "there is no rule for this operator", instead_of(node.op_type, _RULES))
    if node.op_type not in _KEEPS_ZEROS:
        inputs = [item and _with_zeros(value, item, builder) for value, item in zip(node.inputs, inputs, strict=True)]
    return entry.apply(node, inputs, builder)


def _of_contexts(node: ir.Node, inputs: Sequence[Stepped | None], builder: StepBuilder) -> Sequence[Stepped]:
    """Take over what is computed of contexts alone: it is the same in every step."""
    if node.op_type in ("Shape", "Size") and node.inputs[0] is not None:
        sizes = [size if isinstance(size, int) else builder.batch for size in node.inputs[0].shape or ()]
        part = sizes[attribute(node, "start", None) : attribute(node, "end", None)]
        numbers = np.array(part if node.op_type == "Shape" else math.prod(sizes), np.int64)
        return [Stepped(builder.constant(numbers, "sizes"))]
    if node.op_type in ("GRU", "LSTM", "RNN"):
        raise refusal(
            node,
            "it runs along a context, which every step would do again",
            "make it a model of its own, run that once, and give what comes out as the context",
        )
    return [Stepped(value) for value in builder.copy(node, values_of(inputs))]


def _with_zeros(value: ir.Value | None, item: Stepped, builder: StepBuilder) -> Stepped:
    """Give a value the zeros that stand before its sequence."""
    if value is None or item.timing is None or item.timing.delay >= 0:
        return item
    return builder.delay(item, -item.timing.delay, value)


def _chunk(least: int, wanted: int | None) -> int:
    """Return how many frames a step takes: a multiple of what the strides make of it."""
    if wanted is not None and (wanted < 1 or wanted % least):
        raise UsageError(
            f"a step of this model cannot take {wanted} frames: its strides and blocks in time make it take {least} or "
            f"a multiple of that ({least}, {2 * least}, {3 * least}, …)"
        )
    if wanted is not None and wanted // least > MOST_AT_ONCE:
        raise UsageError(f"a step of this model takes at most {MOST_AT_ONCE * least} frames, not {wanted}")
    return wanted or least


def _least_chunk(sequence: ir.Model, bounds: Bounds) -> int:
    """Return how many input frames a step takes at least: whole strides, and whole blocks."""
    strides = _strides(sequence)
    blocks = [
        strides[node.outputs[0]] * _RULES[node.op_type].block(node, bounds)
        for node in sequence.graph
        if node.op_type in _RULES and node.outputs[0] in strides
    ]
    return math.lcm(*(Fraction(stride).numerator for stride in (*strides.values(), *blocks)))


def _strides(sequence: ir.Model) -> dict[ir.Value, Fraction | int]:
    """Return, for each computed value, how many input frames make one of its frames."""
    strides: dict[ir.Value, Fraction | int] = dict.fromkeys(set(sequence.graph.inputs) - set(_contexts(sequence)), 1)
    for node in sequence.graph:
        entry = _RULES.get(node.op_type)
        own = entry.stride(node) if entry else 1
        known = [strides[value] for value in node.inputs if value in strides]
        if known:
            strides.update(dict.fromkeys(node.outputs, own * max(known)))
    return strides


def _finish(builder: StepBuilder, outputs: Sequence[tuple[str, Stepped]], chunk: int, contexts: int) -> StepGraph:
    timings = []
    inputs = len(builder.graph.inputs) - contexts
    builder.scope = ""
    for name, item in outputs:
        if isinstance(item, Pending):
            raise UnsupportedLayerError(item.refused(name))
        if item.timing is None:
            raise UnsupportedLayerError(f"the output {name} is a constant: it does not depend on any input frame")
        if item.timing.axis not in (1, None):
            raise UnsupportedLayerError(
                f"the output {name} has its time on axis {item.timing.axis}; expected (batch, time, features...): move "
                "it there, for example with Permute"
            )
        builder.output(item.value, name)
        timings.append(item.timing)
    for state in builder.states:
        if state.output is None:
            raise AssertionError(f"the rule that made the state {state.name} gave it no output")
        builder.graph.inputs.append(state.input)
        builder.output(state.output, identifier(f"{state.name}_out"))
    return StepGraph(
        builder.finish(),
        tuple(builder.states),
        tuple(timings),
        chunk,
        inputs,
        builder.batch,
        contexts,
        tuple(note for notes in builder.approximations.values() for note in notes),
    )

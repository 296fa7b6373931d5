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

from edgernn.errors import ConversionError, UnsupportedLayerError, UsageError
from edgernn.quantize.bounds import EXACT, MOST_AT_ONCE, Bounds
from edgernn.quantize.directions import split_directions
from edgernn.quantize.graph import ONE_STREAM, Builder, array_of, attribute, evaluate, identifier, scope_of, shape_of
from edgernn.quantize.mixing import KEEP_APART, run_together
from edgernn.quantize.supported import instead_of
from edgernn.quantize.timing import Timing
from edgernn.spec import StateSpec, StreamSpec, TensorSpec

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


@dataclass(frozen=True)
class Stepped:
    """A value of the step graph; `timing` is None for a constant, and for what comes of contexts alone."""

    value: ir.Value
    timing: Timing | None = None

    @property
    def held(self) -> bool:
        """Whether it comes of contexts: the same in every step of a stream, and not known before."""
        return self.timing is None and self.value.const_value is None


@dataclass(frozen=True)
class Pending(Stepped):
    """What has a form in the step graph only together with what follows; its `value` is that of the sequence graph."""

    def follow(self, node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
        """Return what `node` becomes, which has this among its inputs; or refuse it."""
        raise NotImplementedError

    def refused(self, name: str) -> str:
        """Say why the output `name` cannot be this."""
        raise NotImplementedError


@dataclass
class State:
    """A state of the step graph."""

    name: str
    input: ir.Value
    initial: float
    hold_steps: int
    batch_axis: int = 0
    output: ir.Value | None = None


@dataclass(frozen=True)
class StepGraph:
    """The step graph and what a runner has to know about it.

    Graph inputs are the model's inputs, then its contexts, then the states; outputs likewise, without contexts. State
    `n` of the inputs is state `n` of the outputs.
    """

    model: ir.Model
    states: tuple[State, ...]
    timings: tuple[Timing, ...]
    """Of each output."""
    frames_per_step: int
    inputs: int
    """How many of the graph's inputs bring frames (the others bring states)."""
    batch: int = 1
    """Streams that one step serves."""
    contexts: int = 0
    """How many inputs behind those are given once, when a stream begins."""
    approximations: tuple[str, ...] = ()
    """What is not what the source would say, node by node: all of it was asked for."""

    def spec(self) -> StreamSpec:
        """Describe the step, all in float32, to a runner."""
        graph, outputs, given = self.model.graph, len(self.timings), self.inputs + self.contexts
        return StreamSpec(
            inputs=tuple(_tensor(value) for value in graph.inputs[: self.inputs]),
            outputs=tuple(_tensor(value) for value in graph.outputs[:outputs]),
            states=tuple(
                StateSpec(
                    state.name,
                    entering.name or "",
                    leaving.name or "",
                    shape_of(entering),
                    str((entering.dtype or ir.DataType.FLOAT).numpy()),
                    initial=state.initial,
                    hold_steps=state.hold_steps,
                    batch_axis=state.batch_axis,
                )
                for state, entering, leaving in zip(
                    self.states, graph.inputs[given:], graph.outputs[outputs:], strict=True
                )
            ),
            frames_per_step=self.frames_per_step,
            batch=self.batch,
            output_delays=tuple(t.warmup_steps if t.axis is None else t.delay for t in self.timings),
            output_kinds=tuple("prefix" if t.axis is None else "frames" for t in self.timings),
            latency_frames=max(t.latency_frames for t in self.timings),
            contexts=tuple(_tensor(value) for value in graph.inputs[self.inputs : given]),
        )


def _tensor(value: ir.Value) -> TensorSpec:
    dtype = str((value.dtype or ir.DataType.FLOAT).numpy())
    return TensorSpec(value.name or "", shape_of(value), dtype, below=_entries(value))


def _entries(value: ir.Value) -> int | None:
    """Return in how many entries of a table these numbers are looked up, the least of all tables."""
    found: list[int | None] = []
    for node, place in value.uses():
        if node.op_type == "Gather" and place == 1 and node.inputs[0] is not None and node.inputs[0].is_initializer():
            found.append(shape_of(node.inputs[0])[int(attribute(node, "axis", 0))])
        elif node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze") and place == 0:
            found.append(_entries(node.outputs[0]))
    return min((entries for entries in found if entries is not None), default=None)


Rule = Callable[[ir.Node, Sequence[Stepped | None], "StepBuilder"], Sequence[Stepped]]
Stride = Callable[[ir.Node], Fraction | int]


@dataclass(frozen=True)
class _Entry:
    kind: Kind
    apply: Rule
    stride: Stride
    block: Callable[[ir.Node, Bounds], int]


_RULES: dict[str, _Entry] = {}
NEVER = 1e9  # below any other score: Exp of it is zero
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


class StepBuilder(Builder):
    """Builds the step graph for `batch` streams; rules ask it for states and for alignment.

    Where a method takes a value's `original`, that is the value in the sequence graph: it tells shape and batch axis.
    """

    def __init__(self, name: str, batch: int = 1, bounds: Bounds = EXACT) -> None:
        super().__init__(name)
        self.batch = batch
        self.bounds = bounds
        self.states: list[State] = []
        self.approximations: dict[str, list[str]] = {}

    def state(
        self, name: str, shape: Sequence[int], hold_steps: int, initial: float = 0.0, batch_axis: int = 0
    ) -> State:
        """Add a state of this shape, with the streams along `batch_axis`; the rule must set its `output`."""
        assert shape[batch_axis] == self.batch, f"{name}: {shape} has not {self.batch} streams along {batch_axis}"
        full = self.unique(f"{self.scope}.{name}" if self.scope else name)
        entering = self.unique(identifier(f"{full}_in"))
        value = ir.Value(name=entering, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        self.states.append(State(full, value, initial, hold_steps, batch_axis))
        return self.states[-1]

    def delay(self, stepped: Stepped, frames: int, original: ir.Value) -> Stepped:
        """Put a delay line of `frames` frames behind a value."""
        timing = stepped.timing
        if frames == 0 or timing is None:
            return stepped
        if timing.axis is None:
            raise UnsupportedLayerError(f"{self.scope}: a value without a time axis cannot be delayed")
        return Stepped(self._line(stepped, frames, original, 0), replace(timing, delay=timing.delay + frames))

    def insert_zeros(self, stepped: Stepped, frames: int, original: ir.Value) -> Stepped:
        """Put zeros before the first valid frame, by a delay line that takes nothing in until then."""
        stepped = self.align(stepped, original)
        timing = stepped.timing
        assert timing is not None
        value = self._line(stepped, frames, original, timing.hold_steps)
        return Stepped(value, replace(timing.without_first(-frames), delay=timing.delay))

    def _line(self, stepped: Stepped, frames: int, original: ir.Value, hold_steps: int) -> ir.Value:
        timing = stepped.timing
        assert timing is not None
        assert timing.axis is not None
        joined = self.remember(stepped, frames, original, "delay", hold_steps)
        return self.cut(joined, timing.axis, 0, timing.frames)

    def remember(
        self, stepped: Stepped, frames: int, original: ir.Value, name: str, hold_steps: int = 0, initial: float = 0.0
    ) -> ir.Value:
        """Return the last `frames` frames and behind them the step's own; before the beginning, all are `initial`."""
        timing = stepped.timing
        assert timing is not None
        assert timing.axis is not None
        if frames == 0:
            return stepped.value
        held = step_shape(original, replace(timing, frames=frames), self.batch)
        past = self.state(name, held, hold_steps, initial, batch_axis(original, timing))
        real = original.dtype in (None, ir.DataType.FLOAT)  # states are: what is true or false is 1 or 0 in one
        fresh = stepped.value if real else self.op("Cast", stepped.value, to=int(ir.DataType.FLOAT))
        joined = self.op("Concat", past.input, fresh, axis=timing.axis)
        past.output = self.cut(joined, timing.axis, timing.frames, timing.frames + frames)
        return joined if real else self.op("Cast", joined, to=int(original.dtype or ir.DataType.FLOAT))

    def empty_places(self, shape: Sequence[int], axis: int, frames: int, hold_steps: int) -> ir.Value:
        """Return zeros, but -1e9 where `remember` has no frame yet: to add to scores, so that their share is zero.

        `shape` is that of the places kept, `axis` the one of the frames (the streams are along the first), of which a
        step brings `frames`. What is kept is 0 or 1, which every quantization leaves as it is.
        """
        taken = self.state("taken", shape, hold_steps)
        fresh = [frames if place == axis else size for place, size in enumerate(shape)]
        joined = self.op("Concat", taken.input, self.constant(np.ones(fresh, np.float32), "taken"), axis=axis)
        taken.output = self.cut(joined, axis, frames, frames + shape[axis])
        return self.op("Mul", self.op("Sub", joined, self.constant(1.0, "one")), self.constant(NEVER, "never"))

    def approximate(self, bound: str, how: str) -> None:
        """Take down that the node at hand is approximated under the field `bound` of `Bounds`, and how."""
        self.approximations.setdefault(bound, []).append(f"{self.scope}: {how}" if self.scope else how)

    def align(self, stepped: Stepped, original: ir.Value) -> Stepped:
        """Delay a value until its first valid frame is the first frame of a step."""
        timing = stepped.timing
        if timing is not None and timing.delay < 0:
            stepped = self.delay(stepped, -timing.delay, original)
            timing = stepped.timing
        return stepped if timing is None else self.delay(stepped, -timing.delay % timing.frames, original)

    def settle(self, stepped: Stepped, original: ir.Value) -> Stepped:
        """Delay a value until the source, which drops its last frames, has the newest one, too, and for good."""
        timing = stepped.timing
        return stepped if timing is None else self.delay(stepped, max(timing.settled - timing.delay, 0), original)

    def cut(self, value: ir.Value, axis: int, start: int, stop: int, step: int = 1) -> ir.Value:
        """Take a slice along one axis."""
        bounds = [self.constant(np.array([bound], np.int64), "bound") for bound in (start, stop, axis, step)]
        return self.op("Slice", value, *bounds)


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


def merge(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> tuple[list[ir.Value], Timing | None]:
    """Bring the inputs of a node that joins branches to the same frame; return their values and common timing."""
    timed = [item.timing for item in inputs if item is not None and item.timing is not None]
    if not timed:
        return [item.value for item in inputs if item is not None], None
    if len({(timing.axis is None, timing.stride) for timing in timed}) > 1:
        raise refusal(
            node,
            "it joins branches that run at different rates, or a sequence with a summary of it",
            "give both the same strides, and both or neither a last frame or a global pooling",
        )
    if timed[0].axis is None and len({timing.extra_input_frames for timing in timed}) > 1:
        raise refusal(
            node,
            "it joins summaries of which one is some frames older, because of how the strides fall",
            "give both branches the same strides and windows",
        )
    latest = max(timing.delay for timing in timed)
    values = []
    for original, item in zip(node.inputs, inputs, strict=True):
        if item is None or original is None:
            continue
        if item.timing is not None and item.timing.axis is not None:
            item = step.delay(item, latest - item.timing.delay, original)
        values.append(item.value)
    lag, settled = (max(times) for times in zip(*((timing.lag, timing.settled) for timing in timed), strict=True))
    rank = max(len(value.shape or ()) for value in node.inputs if value is not None)
    axis = next((t.axis + rank - len(v.shape or ()) for v, t in _timed(node, inputs) if t.axis is not None), None)
    return values, replace(timed[0], axis=axis, delay=latest, lag=lag, settled=settled)


def together(
    node: ir.Node, pairs: Sequence[tuple[ir.Value, Stepped]], step: StepBuilder
) -> list[tuple[ir.Value, Stepped]]:
    """Bring sequences, each behind its original, to whole steps and to the same frame."""
    aligned = [(original, step.align(item, original)) for original, item in pairs]
    timings = [item.timing for _, item in aligned if item.timing is not None]
    if len({(timing.stride, timing.axis is None) for timing in timings}) > 1:
        raise refusal(node, "it joins sequences that run at different rates", "give all of them the same strides")
    latest = max(timing.delay for timing in timings)
    return [
        (original, step.delay(item, latest - item.timing.delay, original))
        for original, item in aligned
        if item.timing is not None
    ]


def summed_up(
    node: ir.Node, original: ir.Value | None, source: Stepped, step: StepBuilder, whole_steps: bool = True
) -> Stepped:
    """Return a sequence of which a summary (its last frame, its mean) is what the source says for all frames so far.

    `node` sums it up; `whole_steps` asks for its first frame to be the first of a step. Raises `UnsupportedLayerError`
    where the source knows something of its last frames that no stream can: that zeros stand behind them.
    """
    assert original is not None
    source = step.settle(source, original)
    source = step.align(source, original) if whole_steps else source
    timing = source.timing
    assert timing is not None
    blurred = timing.settled - timing.lag
    if blurred and step.bounds.edges:
        step.approximate("edges", f"without the last {blurred} frames, which look ahead")
    elif blurred:
        raise refusal(
            node,
            f"it sums up a sequence whose last {blurred} frames were made from zeros behind the end, and a stream has "
            "no end",
            "leave these frames out with --approximate edges, crop them, or train with padding='causal'",
        )
    if (timing.delay - timing.lag) * timing.stride % 1:
        raise refusal(
            node,
            "it would sum up a sequence that ends between two input frames, because of how UpSampling falls",
            "crop a multiple of the upsampling factor",
        )
    return source


def values_of(inputs: Sequence[Stepped | None]) -> list[ir.Value | None]:
    """Return the values alone."""
    return [None if item is None else item.value for item in inputs]


def _timed(node: ir.Node, inputs: Sequence[Stepped | None]) -> list[tuple[ir.Value, Timing]]:
    pairs = zip(node.inputs, inputs, strict=True)
    return [(v, item.timing) for v, item in pairs if v is not None and item is not None and item.timing is not None]


def step_shape(value: ir.Value, timing: Timing, batch: int) -> tuple[int, ...]:
    """Return the shape in the step graph of a value of the sequence graph: `batch` streams, the step's frames."""
    open_axes = {batch_axis(value, timing): batch, timing.axis: timing.frames}
    sizes = (open_axes.get(axis, size) for axis, size in enumerate(value.shape or ()))
    return tuple(size for size in sizes if isinstance(size, int))


def batch_axis(value: ir.Value, timing: Timing) -> int:
    """Return along which axis a value of the sequence graph has its streams: besides time, the one of unknown size."""
    open_axes = [axis for axis, size in enumerate(value.shape or ()) if not isinstance(size, int)]
    ones = [axis for axis, size in enumerate(value.shape or ()) if size == 1]  # of a graph that serves one stream only
    axes = [axis for axis in open_axes if axis != timing.axis] or ones[:1]
    if len(axes) != 1:
        raise ConversionError(
            f"{value.name}: expected a shape in which batch and time alone are open, found {value.shape}; where "
            "PyTorch attends, as nn.MultiheadAttention does, export it with need_weights=False"
        )
    return axes[0]


def operators_with_rules() -> list[str]:
    """Return the ONNX operators that the table has (once `rules` has filled it)."""
    return sorted(_RULES)


def refusal(node: ir.Node, reason: str, way_out: str = "") -> UnsupportedLayerError:
    """Make the error that names a node, the reason, and what can be done."""
    where = scope_of(node) or node.name or "the model"
    return UnsupportedLayerError(
        f"{where} ({node.op_type}) has no streaming form: {reason}" + (f"; {way_out}" if way_out else "")
    )


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

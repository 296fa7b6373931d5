"""An ONNX file with states of its own is a step already: it passes through, with its states named.

What a step takes and gives keeps its order of axes behind `(batch, frames)`; a tensor without an axis for frames is one
frame. The proof is the file itself, stepped in ONNX Runtime with its own states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import edgernn.quantize.onnx_files.operators  # noqa: F401  (fills the table)
from edgernn.errors import ConversionError, UsageError
from edgernn.quantize.directions import split_directions
from edgernn.quantize.graph import identifier
from edgernn.quantize.onnx_files.branches import take_branches
from edgernn.quantize.onnx_files.importer import Importer
from edgernn.quantize.onnx_files.layout import Layout
from edgernn.quantize.onnx_files.probe import Probe, Run
from edgernn.quantize.onnx_files.session import Session, open_sizes
from edgernn.quantize.oracle import GraphOracle
from edgernn.quantize.streaming import State, StepGraph
from edgernn.quantize.timing import Timing

__all__ = ["OnnxStep", "from_onnx_step"]


@dataclass(frozen=True)
class OnnxStep:
    """A file that is a step: its step graph, and the file itself to compare with."""

    step: StepGraph
    oracle: GraphOracle
    layouts: Mapping[str, Layout]
    """Where each input and output has its streams and frames in the file."""


class _SteppedOracle(GraphOracle):
    """The file in ONNX Runtime, stepped from zeros."""

    def __init__(
        self, model: ir.Model, inputs: Mapping[str, Layout], outputs: Mapping[str, Layout],
        states: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], frames: int,
    ) -> None:  # fmt: skip
        self._run = Session(open_sizes(ir.to_proto(model)))
        self._inputs, self._outputs, self._states, self._frames = inputs, outputs, states, frames
        dtypes = {value.name: (value.dtype or ir.DataType.FLOAT).numpy() for value in model.graph.inputs}
        self._zeros = {name: np.zeros(shapes[name], dtypes[name]) for name in states}

    def batch(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Step each stream by itself."""
        each = [self._one(stream) for stream in zip(*frames, strict=True)]
        return [np.stack(outputs) for outputs in zip(*each, strict=True)]

    def _one(self, stream: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        state, taken = dict(self._zeros), []
        for start in range(0, len(stream[0]) // self._frames * self._frames, self._frames):
            fed = {
                name: layout.place(array[start : start + self._frames])
                for (name, layout), array in zip(self._inputs.items(), stream, strict=True)
            }
            found = self._run({**fed, **state}, [*self._outputs, *self._states.values()])
            state = {entering: found[leaving] for entering, leaving in self._states.items()}
            taken.append([_frames(found[name], layout) for name, layout in self._outputs.items()])
        return [np.concatenate(parts).astype(np.float32) for parts in zip(*taken, strict=True)]


def _frames(array: NDArray[Any], layout: Layout) -> NDArray[Any]:
    frames = layout.canonical(array)
    return frames if layout.time is not None else frames[None]


def from_onnx_step(
    model: ir.Model,
    states: Mapping[str, str],
    time_axes: Mapping[str, int] | None = None,
    frames_per_step: int | None = None,
) -> OnnxStep:
    """Bring a file with states `{input: output}` (from `read_onnx`) into the form of a step graph.

    `time_axes` says along which axis of an input its frames are: by default axis 1 where that is open or has the size
    one, or `frames_per_step`; a step takes as many as the axis has, or `frames_per_step` where it is open. Raises
    `UsageError` for inputs that do not fit together, `ConversionError` for a file that does not run at these sizes or
    changes those of a state.
    """
    truth = model.clone()
    frames = [value for value in model.graph.inputs if value.name not in states]
    asked = time_axes or {}
    layouts = {value.name or "": _layout(value, asked.get(value.name or ""), frames_per_step) for value in frames}
    count = _count(frames, layouts, frames_per_step)
    shapes = {value.name or "": _shape(value, layouts.get(value.name or ""), count) for value in model.graph.inputs}
    take_branches(model, shapes)
    run = _run(model, shapes, states)
    graph = Importer(model, shapes, [run])
    for value in frames:
        _enter(graph, value, layouts[value.name or ""], count)
    carried = [_enter_state(graph, value) for value in model.graph.inputs if value.name in states]
    graph.walk()
    graph.scope = ""
    time = next((layout.time for layout in layouts.values() if layout.time is not None), None)
    kept = [v for v in model.graph.outputs if v.name not in states.values() and not graph.is_constant(v)]
    outputs = {value.name or "": _leave(graph, value, time, count) for value in kept}
    by_name = {value.name: value for value in model.graph.outputs}
    for state in carried:
        _leave_state(graph, state, by_name[states[state.name]])
    timings = tuple(Timing(1, count, 1) if item.time is not None else Timing(1, 1, count) for item in outputs.values())
    finished = split_directions(graph.finish())
    step = StepGraph(finished, tuple(carried), timings, count, len(frames))
    oracle = _SteppedOracle(truth, layouts, outputs, states, shapes, count)
    return OnnxStep(step, oracle, {**layouts, **outputs})


def _layout(value: ir.Value, asked: int | None, frames: int | None) -> Layout:
    sizes = [size if isinstance(size, int) else None for size in value.shape or ()]
    rank = len(sizes)
    if not sizes or (rank == 1 and value.dtype != ir.DataType.FLOAT):
        raise UsageError(
            f"the input {value.name} {value.shape} brings no frames: say what it is, --constant {value.name}=NUMBER or "
            f"--state {value.name}=OUTPUT"
        )
    if asked is not None and not -rank <= asked < rank:
        raise UsageError(f"--time-axis {value.name}={asked}: the input has {rank} axes, counted from 0")
    time = None if asked is None else asked % rank
    if time is None and rank > 1 and (sizes[1] in (None, frames) or (sizes[1] == 1 and rank > 2)):
        time = 1
    return Layout(next((axis for axis in range(rank - 1) if axis != time and sizes[axis] in (None, 1)), None), time)


def _count(frames: Sequence[ir.Value], layouts: Mapping[str, Layout], asked: int | None) -> int:
    """Return how many frames a step takes."""
    sizes = {}
    for value in frames:
        time = layouts[value.name or ""].time
        size = 1 if time is None else (value.shape or ())[time]
        if isinstance(size, int):
            sizes[f"{value.name} {value.shape}"] = size
    counts = {*sizes.values(), *([] if asked is None else [asked])}
    if len(counts) > 1 and len(set(sizes.values())) == 1:
        (own,) = set(sizes.values())
        axes = [f"--time-axis {value.name}=1 ({_second(value)})" for value in frames if _may_be_frames(value, layouts)]
        raise UsageError(
            f"--frames-per-step {asked}: the file's own step takes {own} ({', '.join(sizes)}), and cannot take more or "
            f"fewer: leave the option out{', or say which axis has the frames: ' if axes else ''}{' or '.join(axes)}"
        )
    if len(counts) > 1:
        raise UsageError(
            f"a step takes another number of frames for each input: {', '.join(sizes)}; say which axes have the frames "
            "with --time-axis INPUT=AXIS"
        )
    return counts.pop() if counts else 1


def _may_be_frames(value: ir.Value, layouts: Mapping[str, Layout]) -> bool:
    return layouts[value.name or ""].time is None and len(value.shape or ()) > 1


def _second(value: ir.Value) -> int | ir.SymbolicDim:
    assert value.shape is not None
    return value.shape[1]


def _shape(value: ir.Value, layout: Layout | None, count: int) -> tuple[int, ...]:
    shape = [size if isinstance(size, int) else 1 for size in value.shape or ()]
    if layout is not None and layout.time is not None:
        shape[layout.time] = count
    return tuple(shape)


def _run(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], states: Mapping[str, str]) -> Run:
    run = Probe(model)(shapes)
    if run is None:
        said = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ConversionError(
            f"the model does not run with inputs of the sizes {said}; where it takes several frames at once, say how "
            "many with --frames-per-step, and the axis that has them with --time-axis INPUT=AXIS"
        )
    for entering, leaving in states.items():
        if run[entering].shape != run[leaving].shape or run[entering].dtype != run[leaving].dtype:
            raise ConversionError(
                f"the state {entering} goes in as {run[entering].dtype} {run[entering].shape} and comes out (as "
                f"{leaving}) as {run[leaving].dtype} {run[leaving].shape}: a state must keep its size"
            )
    return run


def _axes(axes: Sequence[int]) -> NDArray[np.int64]:
    return np.array(axes, np.int64)


def _enter(graph: Importer, value: ir.Value, layout: Layout, count: int) -> None:
    """Add an input `(1, frames, features...)`, and move its axes to where the file has them."""
    (shape,) = graph.shapes(value)
    order = layout.order(len(shape))
    features = [shape[axis] for axis in order[len(layout.first) :]]
    dtype = ir.DataType.from_numpy(graph.runs[0][value.name or ""].dtype)
    entered = graph.input(identifier(value.name or "input"), [1, count, *features], dtype)
    surplus = [axis for axis, there in ((0, layout.batch), (1, layout.time)) if there is None]
    if surplus:
        entered = graph.op("Squeeze", entered, graph.constant(_axes(surplus), "axes"))
    perm = [order.index(axis) for axis in range(len(shape))]
    graph.values[value] = entered if perm == sorted(perm) else graph.op("Transpose", entered, perm=perm)


def _leave(graph: Importer, value: ir.Value, time: int | None, count: int) -> Layout:
    """Add an output as `(1, frames, features...)`, and return where the file has these axes."""
    (shape,) = graph.shapes(value)
    has_time = time is not None and len(shape) > max(time, 1 + (count == 1)) and shape[time] == count
    axis = time if has_time else None
    layout = Layout(next((place for place, size in enumerate(shape) if place != axis and size == 1), None), axis)
    result, order = graph.values[value], layout.order(len(shape))
    if order != sorted(order):
        result = graph.op("Transpose", result, perm=order)
    missing = [place for place, there in ((0, layout.batch), (1, layout.time)) if there is None]
    if missing:
        result = graph.op("Unsqueeze", result, graph.constant(_axes(missing), "axes"))
    graph.output(result, identifier(value.name or "output"))
    return layout


def _enter_state(graph: Importer, value: ir.Value) -> State:
    """Add a state's input, with an axis for the stream in front where it has none."""
    (shape,) = graph.shapes(value)
    has_batch = 1 in shape
    dtype = ir.DataType.from_numpy(graph.runs[0][value.name or ""].dtype)
    entered = graph.input(identifier(value.name or "state"), list(shape) if has_batch else [1, *shape], dtype)
    plain = entered if has_batch else graph.op("Squeeze", entered, graph.constant(_axes([0]), "axes"))
    graph.values[value] = plain
    return State(value.name or "", entered, 0.0, 0, shape.index(1) if has_batch else 0)


def _leave_state(graph: Importer, state: State, value: ir.Value) -> None:
    result = graph.values[value] if value in graph.values else graph.constant(graph.runs[0][value.name or ""], "state")
    if 1 not in graph.shapes(value)[0]:
        result = graph.op("Unsqueeze", result, graph.constant(_axes([0]), "axes"))
    graph.output(result, identifier(value.name or "state_out"))
    state.output = graph.graph.outputs[-1]

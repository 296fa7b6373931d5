"""An ONNX file over whole sequences becomes the sequence graph: `(batch, time, features...)` in and out.

The file is run at two lengths, and with one and two streams (`onnx_files/probe.py`). What is the same each time and
does not come from the inputs is a constant, however it was computed; axes that differ are time and batch. So shapes
that a file computes as it goes (Shape, Gather, Concat, Expand, ...) need no rules: only what is left becomes nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import edgernn.quantize.onnx_files.operators  # noqa: F401  (fills the table)
from edgernn.errors import ConversionError, UnsupportedLayerError, UsageError
from edgernn.quantize.graph import ONE_STREAM, attribute, identifier
from edgernn.quantize.mixing import refuse_mixing
from edgernn.quantize.onnx_files.axes import Axes, find_axes
from edgernn.quantize.onnx_files.importer import BATCH, TIME, Importer
from edgernn.quantize.onnx_files.initial_states import begin_with_zeros, forget_zero_states
from edgernn.quantize.onnx_files.layout import Layout
from edgernn.quantize.onnx_files.loops import recognize_loops
from edgernn.quantize.onnx_files.open_lengths import open_lengths
from edgernn.quantize.onnx_files.probe import Probe
from edgernn.quantize.onnx_files.session import Session, open_sizes
from edgernn.quantize.oracle import GraphOracle

__all__ = ["NotASequenceError", "OnnxOracle", "OnnxSequence", "from_onnx"]


class NotASequenceError(UnsupportedLayerError):
    """A file goes from one state to the next by itself, not over the frames of a sequence."""


@dataclass(frozen=True)
class OnnxSequence:
    """A file over whole sequences: its sequence graph, and the file itself to compare with."""

    graph: ir.Model
    oracle: OnnxOracle
    layouts: Mapping[str, Layout]
    """Where each input has its streams and frames in the file; in the graph that is always `(batch, time, ...)`."""
    compared: str = ""
    """What the file is compared with, where that is not the file exactly as it is."""


class OnnxOracle(GraphOracle):
    """The file in ONNX Runtime, one stream at a time."""

    def __init__(self, model: ir.Model, layouts: Mapping[str, Layout], outputs: Mapping[str, Layout]) -> None:
        self._run = Session(open_sizes(ir.to_proto(model)))
        self._inputs, self._outputs = layouts, outputs
        self._zeros = {
            value.name or "": np.zeros(_sizes_of_one(value), (value.dtype or ir.DataType.FLOAT).numpy())
            for value in model.graph.inputs
            if value.name not in layouts
        }

    def batch(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Run each stream from its beginning; raise `ConversionError` where the file has no such length."""
        each = [self._one(stream) for stream in zip(*frames, strict=True)]
        return [np.stack(outputs) for outputs in zip(*each, strict=True)]

    def _one(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Take and give the canonical order of axes, without the batch."""
        fed = {name: layout.place(array) for (name, layout), array in zip(self._inputs.items(), frames, strict=True)}
        found = self._run({**fed, **self._zeros}, list(self._outputs))
        return [layout.canonical(found[name]).astype(np.float32) for name, layout in self._outputs.items()]


def _sizes_of_one(value: ir.Value) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else 1 for size in value.shape or ())


def from_onnx(
    model: ir.Model, time_axes: Mapping[str, int] | None = None, states: Mapping[str, str] | None = None
) -> OnnxSequence:
    """Bring a file over whole sequences (from `read_onnx`) into the form that `stream` takes.

    `time_axes` says which axis of an input is time, where that cannot be told from the operators. Inputs that are
    nothing but the initial states of recurrent operators go away, because a stream begins with zeros, and so do the
    outputs that give them anew (`states`). Raises `UsageError` where axes cannot be told, `UnsupportedLayerError` or
    `ConversionError` naming the node that cannot be brought over.
    """
    truth = model.clone()
    _check_unrolled(model)
    recognize_loops(model, model.graph.inputs)
    forget_zero_states(model)
    begun = begin_with_zeros(model)
    frames = list(model.graph.inputs)
    _check_dtypes(frames)
    open_lengths(model, frames)
    probe = Probe(model)
    axes = find_axes(model, probe, frames, time_axes or {})
    _check_states(begun, axes)
    axes = _apart(model, probe, axes)
    graph = Importer(model, axes.layouts, axes.runs, axes.lengths[0])
    if not axes.batch_is_free:
        graph.one_stream = "the file was exported for a batch of one"
    for value in frames:
        _enter(graph, value, axes.layouts[value.name or ""])
    graph.walk()
    graph.scope = ""
    carried = set((states or {}).values())
    kept = [item for item in model.graph.outputs if not graph.is_constant(item) and item.name not in carried]
    if not kept:
        raise UnsupportedLayerError("none of the outputs depends on what the inputs bring")
    outputs = {value.name or "": _leave(graph, value) for value in kept}
    result = graph.finish()
    if graph.one_stream:
        result.metadata_props[ONE_STREAM] = graph.one_stream
    oracle, compared = _oracle(truth, model, axes, outputs)
    return OnnxSequence(result, oracle, axes.layouts, compared)


def _apart(model: ir.Model, probe: Probe, axes: Axes) -> Axes:
    """Refuse a file that mixes the sequences of its batch; one whose batch is one has none to mix."""
    if not axes.batch_is_free:
        return axes
    two = {name: axes.runs[2][name].shape for name in axes.layouts}
    batch = {name: layout.batch or 0 for name, layout in axes.layouts.items()}
    try:
        refuse_mixing(model, probe, two, batch)
    except UnsupportedLayerError:
        if any((value.shape or ())[batch[value.name or ""]] != 1 for value in model.graph.inputs):
            raise
        return replace(axes, runs=axes.runs[:2], batch_is_free=False)
    return axes


def _check_states(begun: Sequence[ir.Node], axes: Axes) -> None:
    """Refuse a file whose recurrent operators go through something else than the frames of its input."""
    for node in begun:
        source = node.inputs[0]
        axis = 1 if attribute(node, "layout", 0) else 0
        if source is not None and [run[source.name or ""].shape[axis] for run in axes.runs[:2]] != list(axes.lengths):
            raise NotASequenceError(f"the states of {node.name} are not carried from frame to frame of the input")


ONE_LENGTH = "the file runs at one length only: it is compared with itself with other lengths let in, the same there"
NOT_INDEPENDENT = (
    "the file runs at one length only, and is compared with the recurrent operators that were read from it: this proof "
    "is not independent of how it was read; export it with its time axis open"
)


def _oracle(truth: ir.Model, model: ir.Model, axes: Axes, outputs: Mapping[str, Layout]) -> tuple[OnnxOracle, str]:
    """Return what runs the file over whole sequences, and what is to be said of it.

    That is the file as it was read; where it has one length only, the file with its length opened (which
    `open_lengths` compares with it at that length, bit for bit); at last `model`, what else was made of it.
    """
    frames = [layout.canonical(axes.runs[0][name]) for name, layout in axes.layouts.items()]
    for said in ("", ONE_LENGTH, NOT_INDEPENDENT):
        file = _opened(truth, axes) if said == ONE_LENGTH else model if said else truth
        oracle = OnnxOracle(file, axes.layouts, outputs)
        try:
            oracle(frames)
            return oracle, said
        except ConversionError:
            continue
    raise ConversionError("ONNX Runtime cannot run the model over whole sequences")


def _opened(truth: ir.Model, axes: Axes) -> ir.Model:
    opened = truth.clone()
    open_lengths(opened, [value for value in opened.graph.inputs if value.name in axes.layouts])
    return opened


def _check_dtypes(frames: Sequence[ir.Value]) -> None:
    for value in frames:
        if value.shape is None or len(value.shape) < 2:
            raise UsageError(
                f"the input {value.name} has the shape {value.shape}; expected frames, (batch, time, features) in any "
                "order: if it is one number, such as a sample rate, give it with --constant INPUT=NUMBER"
            )
        if value.dtype not in (ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64):
            raise ConversionError(f"the input {value.name} is of type {value.dtype}: export the model in float32")


UNROLLED = 10  # products with one matrix: more than any network shares its weights on purpose


def _check_unrolled(model: ir.Model) -> None:
    """Refuse a recurrent layer that was written out frame by frame."""
    for value in model.graph.initializers.values():
        readers = [node for node in value.consumers() if node.op_type in ("Gemm", "MatMul")]
        if len(readers) >= UNROLLED:
            raise UnsupportedLayerError(
                f"{len(readers)} products with one matrix, {value.name}, such as node {readers[0].name}: a recurrent "
                "layer was unrolled over time, for one length; export it with torch.onnx.export(dynamo=False), or use "
                "nn.GRU or nn.LSTM, which the new exporter keeps whole"
            )


def _enter(graph: Importer, value: ir.Value, layout: Layout) -> None:
    """Add an input `(batch, time, features...)`, and move its axes to where the file has them."""
    sizes = graph.sizes(value)
    features = [size for axis, size in enumerate(sizes) if axis not in (layout.batch, layout.time)]
    if not all(isinstance(size, int) for size in features):
        raise ConversionError(f"the input {value.name} has more open axes than batch and time: {sizes}")
    entered = graph.input(identifier(value.name or "input"), [BATCH, TIME, *features], value.dtype or ir.DataType.FLOAT)
    if layout.batch is None:
        entered = graph.op("Squeeze", entered, graph.constant(np.array([0], np.int64), "axes"))
    order = layout.order(len(sizes))
    perm = [order.index(axis) for axis in range(len(sizes))]
    graph.values[value] = entered if perm == sorted(perm) else graph.op("Transpose", entered, perm=perm)


def _leave(graph: Importer, value: ir.Value) -> Layout:
    """Add an output with batch and time in front, and return where the file has them."""
    sizes, time = graph.sizes(value), graph.time_axis(value)
    layout = Layout(sizes.index(BATCH) if BATCH in sizes else None, time)
    order, result = layout.order(len(sizes)), graph.values[value]
    if order != sorted(order):
        result = graph.op("Transpose", result, perm=order)
    if layout.batch is None:
        result = graph.op("Unsqueeze", result, graph.constant(np.array([0], np.int64), "axes"))
    graph.output(result, identifier(value.name or "output"))
    return layout

"""Operators of files in the forms that the streaming rules know; what has no function here is taken over as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.graph import attribute, plain_attributes
from edgernn.quantize.onnx_files.importer import BATCH, Importer, copied, imports, refuse

__all__ = ["target_shape"]

TO_THE_END = np.iinfo(np.int64).max
RECURRENT_INPUTS = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}


def _rank(node: ir.Node, graph: Importer) -> int:
    assert node.inputs[0] is not None
    return len(graph.shapes(node.inputs[0])[0])


def _source(node: ir.Node) -> ir.Value:
    assert node.inputs[0] is not None
    return node.inputs[0]


def _optional(node: ir.Node, place: int) -> ir.Value | None:
    return node.inputs[place] if place < len(node.inputs) else None


def _int64(graph: Importer, values: Sequence[int], name: str) -> ir.Value:
    return graph.constant(np.array(values, np.int64), name)


@imports("Dropout", "Identity")
def nothing(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """Dropout is nothing when a model is not being trained."""
    return [graph.data(node)]


@imports("Cast")
def cast(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """A cast to the type that a value has already is nothing."""
    names = _source(node).name or "", node.outputs[0].name or ""
    before, after = (graph.runs[0][name].dtype for name in names)
    return [graph.data(node)] if before == after else copied(node, graph)


@imports("Gemm")
def gemm(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """alpha * A @ B + beta * C, with the factors in the constants."""
    if attribute(node, "transA", 0):
        raise refuse(node, "it transposes its input (transA=1)")
    matrix = graph.array(node, node.inputs[1]) * np.float32(attribute(node, "alpha", 1.0))
    value = graph.op("MatMul", graph.data(node), graph.constant(matrix.T if attribute(node, "transB", 0) else matrix))
    bias = _optional(node, 2)
    if bias is None:
        return [value]
    return [graph.op("Add", value, graph.constant(graph.array(node, bias) * np.float32(attribute(node, "beta", 1.0))))]


def _by_channel(array: NDArray[Any], rank: int) -> NDArray[Any]:
    """Return a value for each channel (axis 1) in a shape that broadcasts."""
    return array.reshape(-1, *[1] * (rank - 2))


@imports("BatchNormalization")
def batch_normalization(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """With its statistics constant: a factor and an offset for each channel."""
    if attribute(node, "training_mode", 0):
        raise refuse(node, "it is exported in training mode", "call model.eval() before the export")
    scale, bias, mean, variance = (graph.array(node, value).astype(np.float64) for value in node.inputs[1:5])
    factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    rank = _rank(node, graph)
    value = graph.op("Mul", graph.data(node), graph.constant(_by_channel(factor, rank), "scale"))
    return [graph.op("Add", value, graph.constant(_by_channel(bias - mean * factor, rank), "offset"))]


@imports("InstanceNormalization", "GroupNormalization")
def group_normalization(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """Over the features of each frame; over frames it would need the whole sequence."""
    source = _source(node)
    if graph.time_axis(source) not in (None, 0):
        raise refuse(
            node,
            "it takes mean and variance over all frames of the sequence",
            "normalize each frame by itself (LayerNorm over the features), or use BatchNorm1d",
        )
    shape = graph.shapes(source)[0]
    scale, bias = (graph.array(node, value) for value in node.inputs[1:3])
    groups = int(attribute(node, "num_groups", shape[1]))
    by_group = _int64(graph, [0, groups, int(np.prod(shape[1:])) // groups], "groups")
    ones = graph.constant(np.ones(int(np.prod(shape[1:])) // groups, np.float32), "ones")
    parts = graph.op("Reshape", graph.data(node), by_group)
    normal = graph.op("LayerNormalization", parts, ones, axis=-1, epsilon=attribute(node, "epsilon", 1e-5))
    whole = graph.op("Reshape", normal, _int64(graph, [0, *shape[1:]], "shape"))
    if len(scale) == groups != shape[1]:  # opset 18 has them for each group
        scale, bias = (np.repeat(array, shape[1] // groups) for array in (scale, bias))
    scaled = graph.op("Mul", whole, graph.constant(_by_channel(scale, len(shape)), "scale"))
    return [graph.op("Add", scaled, graph.constant(_by_channel(bias, len(shape)), "offset"))]


@imports("Reshape", "Flatten")
def reshape(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """To the shape that the runs show, with 0 and -1 for the axes that are open.

    Where batch and time become one axis, or come out of one, that serves one stream only: its batch axis goes away, and
    comes back.
    """
    before, after = graph.sizes(_source(node)), graph.sizes(node.outputs[0])
    value, lost, found = graph.data(node), BATCH in before, BATCH in after
    if lost != found:
        graph.one_stream = f"node {node.name} lays the frames of all streams side by side"
    if lost and not found:
        value = graph.op("Squeeze", value, _int64(graph, [before.index(BATCH)], "axes"))
        before.remove(BATCH)
    inner = after if lost else [size for size in after if size != BATCH]
    if inner != before:
        value = graph.op("Reshape", value, _int64(graph, target_shape(node, before, inner), "shape"))
    if found and not lost:
        value = graph.op("Unsqueeze", value, _int64(graph, [after.index(BATCH)], "axes"))
    return [value]


def target_shape(node: ir.Node, before: Sequence[int | str], after: Sequence[int | str]) -> list[int]:
    """Return what a Reshape is told, with 0 and -1 for the axes that are open."""
    target = [size if isinstance(size, int) else -1 for size in after]
    for axis, size in enumerate(after):
        if target.count(-1) > 1 and isinstance(size, str) and axis < len(before) and before[axis] == size:
            target[axis] = 0
    if target.count(-1) > 1:
        raise refuse(node, f"it takes {before} to {after}: time and batch both move", "keep them apart")
    return target


@imports("Expand", "Tile")
def expand(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """To a larger shape by a product with ones; to its own shape by nothing."""
    if graph.shapes(_source(node)) == graph.shapes(node.outputs[0]):
        return [graph.data(node)]
    before, after = graph.sizes(_source(node)), graph.sizes(node.outputs[0])
    before = [*[1] * (len(after) - len(before)), *before]
    if node.op_type == "Tile" and any(a != b and a != 1 for a, b in zip(before, after, strict=True)):
        raise refuse(node, "it repeats what is longer than one")
    if any(isinstance(size, str) and size not in before for size in after):
        raise refuse(node, f"it repeats one value along the whole sequence, from {before} to {after}")
    ones = [1 if isinstance(size, str) else size for size in after]
    return [graph.op("Mul", graph.data(node), graph.constant(np.ones(ones, np.float32), "ones"))]


@imports("Squeeze")
def squeeze(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """With its axes said; they may be left out for all that have the size one."""
    given = _optional(node, 1)
    shape = graph.shapes(_source(node))[0]
    axes = [axis for axis, size in enumerate(shape) if size == 1]
    if given is not None:
        axes = [int(axis) % len(shape) for axis in graph.array(node, given).ravel()]
    return [graph.op("Squeeze", graph.data(node), _int64(graph, axes, "axes"))]


@imports("Gather")
def gather(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """Frame T - 1 of T frames is the last one, -1, whatever the length."""
    if graph.is_constant(_source(node)):
        return copied(node, graph)
    axis = int(attribute(node, "axis", 0)) % _rank(node, graph)
    indices = graph.arrays(node, node.inputs[1])
    lengths = [shape[axis] for shape in graph.shapes(_source(node))]
    if axis != graph.time_axis(_source(node)):
        return [graph.op("Gather", graph.data(node), graph.constant(graph.array(node, node.inputs[1])), axis=axis)]
    if any(index.shape != () for index in indices):
        raise refuse(node, "it takes several frames of the sequence out", "only the last frame (-1) can be")
    last = all(int(index) % length == length - 1 for index, length in zip(indices, lengths, strict=True))
    index = np.array(-1 if last else graph.array(node, node.inputs[1]), np.int64)
    return [graph.op("Gather", graph.data(node), graph.constant(index, "index"), axis=axis)]


@imports("Slice")
def cut(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """One axis after the other, each from a first to a last index that does not depend on the length."""
    shapes = graph.shapes(_source(node))
    starts, stops = graph.arrays(node, node.inputs[1]), graph.arrays(node, node.inputs[2])
    axes_input, steps_input = _optional(node, 3), _optional(node, 4)
    axes = range(len(starts[0])) if axes_input is None else graph.array(node, axes_input).ravel().tolist()
    steps = [1] * len(starts[0]) if steps_input is None else graph.array(node, steps_input).ravel().tolist()
    value, time = graph.data(node), graph.time_axis(_source(node))
    for place, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        axis = int(axis) % len(shapes[0])
        bounds = [
            slice(int(start[place]), int(stop[place]), int(step)).indices(shape[axis])
            for start, stop, shape in zip(starts, stops, shapes, strict=True)
        ]
        if all(bound == (0, shape[axis], 1) for bound, shape in zip(bounds, shapes, strict=True)):
            continue
        if step < 0 and axis == time:
            raise refuse(node, "it turns the sequence around", "a stream runs forward only: let it go along features")
        lengths = [shape[axis] for shape in shapes]
        value = (
            _cut_time(node, graph, value, axis, bounds, lengths)
            if axis == time
            else _sliced(graph, value, axis, bounds[0])
        )
    return [value]


def _sliced(graph: Importer, value: ir.Value, axis: int, bounds: Sequence[int]) -> ir.Value:
    if bounds[2] < 0:
        return graph.op("Gather", value, _int64(graph, range(*bounds), "places"), axis=axis)
    return graph.op(
        "Slice", value, *(_int64(graph, [bound], "bound") for bound in (bounds[0], bounds[1], axis, bounds[2]))
    )


def _cut_time(
    node: ir.Node,
    graph: Importer,
    value: ir.Value,
    axis: int,
    bounds: Sequence[tuple[int, int, int]],
    lengths: Sequence[int],
) -> ir.Value:
    """Frames from the beginning are dropped by number, and frames from the end by a negative one."""
    starts = {start for start, _, _ in bounds}
    ends = {length - stop for (_, stop, _), length in zip(bounds, lengths, strict=True)}
    every = bounds[0][2]
    last = all(start == length - 1 for (start, _, _), length in zip(bounds, lengths, strict=True)) and ends == {0}
    if last and every == 1:
        frame = graph.op("Gather", value, graph.constant(np.array(-1), "index"), axis=axis)
        return graph.op("Unsqueeze", frame, _int64(graph, [axis], "axes"))
    if len(starts) > 1 or len(ends) > 1:
        raise refuse(
            node,
            f"it keeps frames {bounds[0][0]} to {bounds[0][1]} of {lengths[0]}",
            "some can be dropped at either end",
        )
    (start,), (end,) = starts, ends
    return _sliced(graph, value, axis, (start, -end or TO_THE_END, every))


@imports("Split")
def split(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """One Slice for each part."""
    axis = int(attribute(node, "axis", 0)) % _rank(node, graph)
    if axis == graph.time_axis(_source(node)):
        raise refuse(node, "it splits the sequence along time", SPLIT_OVER_TIME)
    begin, parts = 0, []
    for result in node.outputs:
        size = graph.shapes(result)[0][axis]
        parts.append(_sliced(graph, graph.data(node), axis, (begin, begin + size, 1)))
        begin += size
    return parts


SPLIT_OVER_TIME = "export the model without unrolling it (torch.onnx.export(dynamo=False), or nn.GRU or nn.LSTM)"


@imports("Pad")
def pad(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """With the padding of every axis said."""
    rank = _rank(node, graph)
    given, axes_input, fill = graph.array(node, node.inputs[1]).tolist(), _optional(node, 3), _optional(node, 2)
    axes = list(range(rank)) if axes_input is None else graph.array(node, axes_input).ravel().tolist()
    pads = [0] * (2 * rank)
    for place, axis in enumerate(axes):
        pads[int(axis) % rank], pads[int(axis) % rank + rank] = given[place], given[place + len(axes)]
    if not any(pads):
        return [graph.data(node)]
    if fill is not None and graph.array(node, fill).any():
        raise refuse(node, "it pads with something else than zeros", "pad with zeros")
    return [graph.op("Pad", graph.data(node), _int64(graph, pads, "pads"), mode=attribute(node, "mode", "constant"))]


@imports("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "GlobalAveragePool", "GlobalMaxPool")
def reduce(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """With the axes as an attribute; over time without keeping the axis, which is put back behind it."""
    rank, source = _rank(node, graph), _source(node)
    kind = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}.get(node.op_type, node.op_type)
    axes = _reduced(node, graph, rank)
    if not axes:
        return [graph.data(node)]
    time = graph.time_axis(source)
    keep = bool(attribute(node, "keepdims", 1)) or kind != node.op_type
    value, factor = graph.data(node), 1
    if kind == "ReduceSum":
        if time in axes:  # of frames times their shares, as in attention pooling; any other sum has no end
            return [graph.op("ReduceSum", value, _int64(graph, axes, "axes"), keepdims=int(keep))]
        kind, factor = "ReduceMean", int(np.prod([graph.shapes(source)[0][axis] for axis in axes]))
    others = [axis for axis in axes if axis != time]
    if others:
        value = graph.op(kind, value, axes=others, keepdims=1)
    if time in axes:
        value = graph.op(kind, value, axes=[time], keepdims=0)
        value = graph.op("Unsqueeze", value, _int64(graph, [time], "axes"))
    if not keep:
        value = graph.op("Squeeze", value, _int64(graph, axes, "axes"))
    return [value if factor == 1 else graph.op("Mul", value, graph.constant(float(factor), "count"))]


def _reduced(node: ir.Node, graph: Importer, rank: int) -> list[int]:
    if node.op_type.startswith("Global"):
        return list(range(2, rank))
    given = _optional(node, 1)
    axes = attribute(node, "axes", None) if given is None else graph.array(node, given).ravel().tolist()
    if not axes:
        return [] if attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted(int(axis) % rank for axis in axes)


@imports("Clip")
def clip(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """With both of its bounds said."""
    limits = np.finfo(np.float32)
    bounds = [float(limits.min), float(limits.max)]
    for place, value in enumerate(node.inputs[1:3]):
        bounds[place] = bounds[place] if value is None else float(graph.array(node, value))
    return [graph.op("Clip", graph.data(node), *(graph.constant(bound, "bound") for bound in bounds))]


@imports("Gelu")
def gelu(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """x / 2 * (1 + erf(x / sqrt 2)), or its approximation by tanh."""
    x = graph.data(node)
    if attribute(node, "approximate", "none") == "tanh":
        cube = graph.op("Mul", graph.op("Mul", x, x), graph.op("Mul", x, graph.constant(0.044715)))
        inner = graph.op("Mul", graph.op("Add", x, cube), graph.constant(float(np.sqrt(2 / np.pi))))
        gate = graph.op("Tanh", inner)
    else:
        gate = graph.op("Erf", graph.op("Mul", x, graph.constant(float(1 / np.sqrt(2)))))
    half = graph.op("Mul", x, graph.constant(0.5))
    return [graph.op("Mul", half, graph.op("Add", gate, graph.constant(1.0)))]


@imports("Mish", "Swish")
def gated(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """x * tanh(softplus(x)), and x * sigmoid(alpha * x)."""
    x = graph.data(node)
    if node.op_type == "Mish":
        return [graph.op("Mul", x, graph.op("Tanh", graph.op("Softplus", x)))]
    alpha = float(attribute(node, "alpha", 1.0))
    return [graph.op("Mul", x, graph.op("Sigmoid", x if alpha == 1 else graph.op("Mul", x, graph.constant(alpha))))]


@imports("AveragePool", "Conv", "ConvTranspose", "MaxPool")
def window(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """With its padding said in numbers, but where these depend on the length: the streaming rules know that."""
    place = attribute(node, "auto_pad", "NOTSET")
    attributes = {key: value for key, value in plain_attributes(node).items() if key not in ("auto_pad", "dilations")}
    axes = _rank(node, graph) - 2
    dilations, strides = attribute(node, "dilations", [1] * axes), attribute(node, "strides", [1] * axes)
    if set(dilations) != {1}:
        if node.op_type == "AveragePool":
            raise refuse(node, "it pools with a dilation")
        attributes["dilations"] = dilations
    if place.startswith("SAME") and set(strides) != {1}:
        attributes["auto_pad"] = place
    elif place.startswith("SAME"):
        kernel = attribute(node, "kernel_shape", None) or graph.array(node, node.inputs[1]).shape[2:]
        spans = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
        less, more = [span // 2 for span in spans], [span - span // 2 for span in spans]
        attributes["pads"] = less + more if place == "SAME_UPPER" else more + less
    inputs = [graph.get(node, value) for value in node.inputs]
    pads = attributes.get("pads", [])
    in_each_frame = graph.time_axis(_source(node)) in (0, None)
    if in_each_frame and node.op_type == "Conv" and any(pads):  # it does not look over time: nothing takes them away
        ends = [0, 0, *pads[:axes], 0, 0, *pads[axes:]]
        inputs[0] = graph.op("Pad", graph.data(node), _int64(graph, ends, "pads"))
        del attributes["pads"]
    return graph.ops(node.op_type, inputs, 1, attributes)


@imports("LSTM", "GRU", "RNN")
def recurrent(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """With time first, without the lengths of sequences, and without a state where it begins with zeros."""
    _check_lengths(node, graph)
    constants: list[ir.Value | None] = [graph.get(node, value) for value in node.inputs[1:4]]
    constants += [None] * (3 - len(constants))
    first = attribute(node, "layout", 0) == 1
    states = [_initial(node, graph, place, first) for place in RECURRENT_INPUTS[node.op_type]]
    peepholes = [graph.get(node, value) for value in node.inputs[7:8]]
    attributes = {key: value for key, value in plain_attributes(node).items() if key != "layout"}
    x = graph.op("Transpose", graph.data(node), perm=[1, 0, 2]) if first else graph.data(node)
    inputs = [x, *constants, None, *states, *peepholes]
    while inputs[-1] is None:
        inputs.pop()
    outputs = graph.ops(node.op_type, inputs, 2 + (node.op_type == "LSTM"), attributes)
    if not first:
        return outputs
    every = graph.op("Transpose", outputs[0], perm=[2, 0, 1, 3])
    return [every, *(graph.op("Transpose", value, perm=[1, 0, 2]) for value in outputs[1:])]


def _check_lengths(node: ir.Node, graph: Importer) -> None:
    lengths = _optional(node, 4)
    if lengths is None:
        return
    frames = [shape[1 if attribute(node, "layout", 0) else 0] for shape in graph.shapes(_source(node))]
    if not graph.is_constant(lengths) or any(
        (array != length).any() for array, length in zip(graph.arrays(node, lengths), frames, strict=True)
    ):
        raise refuse(node, "it takes the length of each sequence", "a stream has no length: export it without")


def _initial(node: ir.Node, graph: Importer, place: int, first: bool) -> ir.Value | None:
    """Return an initial state, the same for every stream; None for zeros."""
    value = _optional(node, place)
    if len(graph.runs) == 1:  # a step: its states come from where they may
        return _given(node, graph, value, first)
    if value is None:
        return None
    if not graph.is_constant(value):
        raise refuse(node, f"its initial state {value.name} is computed from frames", "start from zeros or constants")
    arrays = [array.swapaxes(0, 1) if first else array for array in graph.arrays(node, value)]
    if any((array != arrays[0][:, :1]).any() for array in arrays):
        raise refuse(node, "its initial state is not the same for each stream")
    return graph.constant(arrays[0][:, :1], "initial") if arrays[0].any() else None


def _given(node: ir.Node, graph: Importer, value: ir.Value | None, first: bool) -> ir.Value | None:
    """Return an initial state as the file computes it; zeros are said, for what takes the operator apart."""
    if value is not None:
        state = graph.get(node, value)
        return graph.op("Transpose", state, perm=[1, 0, 2]) if first else state
    (shape,) = graph.shapes(_source(node))
    directions = 2 if attribute(node, "direction", "forward") == "bidirectional" else 1
    sizes = (directions, shape[0 if first else 1], int(attribute(node, "hidden_size", 0)))
    return graph.constant(np.zeros(sizes, np.float32), "zeros")

"""Layers and functions that move, cut and join: the values in a frame, or frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.from_keras import Call, Emitter, emits, refuse

__all__: list[str] = []

END = int(np.iinfo(np.int64).max)


@emits("Concatenate", of="layers ops")
def _concatenate(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    return graph.op("Concat", *call.operands(graph), axis=call.axis(layer.axis))


@emits("Hstack", of="ops")
def _hstack(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    return graph.op("Concat", *call.operands(graph), axis=call.axis(1))


@emits("Stack", of="ops")
def _stack(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    axis = call.new_axes(operation.axis)
    parts = [graph.op("Unsqueeze", value, graph.constant(axis, "axis")) for value in call.operands(graph)]
    return graph.op("Concat", *parts, axis=axis[0])


@emits("Split", "ArraySplit", of="ops")
def _split(operation: Any, call: Call, graph: Emitter) -> Sequence[ir.Value]:
    axis, given = call.axis(operation.axis), operation.indices_or_sections
    size = call.size(axis)
    if isinstance(given, int | np.integer):
        sizes = [size // int(given) + (place < size % int(given)) for place in range(int(given))]
    else:
        sizes = np.diff([0, *(int(place) for place in given), size]).tolist()
    return graph.ops("Split", [call[0], graph.constant(sizes, "sizes")], len(sizes), {"axis": axis})


@emits("Unstack", of="ops")
def _unstack(operation: Any, call: Call, graph: Emitter) -> Sequence[ir.Value]:
    axis = call.axis(operation.axis)
    places = range(call.size(axis))
    return [graph.op("Gather", call[0], graph.constant(np.array(place), "place"), axis=axis) for place in places]


@emits("GetItem", of="ops")
def _get_item(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    """x[:, -1] (the last frame), x[:, n:] (all but the first frames), and anything of the features."""
    key = call.args[1]
    parts = list(key) if isinstance(key, tuple | list) else [key]
    if any(not isinstance(part, int | np.integer | slice | type(None) | type(Ellipsis)) for part in parts):
        raise refuse(operation, f"it takes [{key}]", "take whole numbers and slices")
    missing = len(call.shape) - sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        parts[place : place + 1] = [slice(None)] * missing
    value, source, axis = call[0], 0, 0
    for part in parts:
        place = axis + (call.outer if axis else 0)
        if part is None:
            value = graph.op("Unsqueeze", value, graph.constant([place], "axis"))
        elif source == 0 and part != slice(None):
            raise refuse(operation, f"it takes [{key}]", "take all of the batch: x[:, …]")
        else:
            value = _take(value, part, place, call.shape[source], graph)
        source += part is not None
        axis += not isinstance(part, int | np.integer)
    return value


def _take(value: ir.Value, part: Any, axis: int, size: int | None, graph: Emitter) -> ir.Value:
    """Take one element, or a slice, along one axis. Where it counts from the end of time, that is left as it is."""
    if isinstance(part, int | np.integer):
        return graph.op("Gather", value, graph.constant(np.array(int(part)), "place"), axis=axis)
    if part == slice(None):
        return value
    step = 1 if part.step is None else int(part.step)
    if step < 0:
        places = np.arange(size or 0)[part]
        return graph.op("Gather", value, graph.constant(places, "places"), axis=axis)
    bounds = ([part.start or 0], [END if part.stop is None else part.stop], [axis], [step])
    return graph.op("Slice", value, *(graph.constant(np.array(bound), "bound") for bound in bounds))


@emits("Take", of="ops")
def _take_places(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    places = call.args[1]
    if operation.axis is None or hasattr(places, "value"):
        raise refuse(operation, "the places that it takes are computed", "take constant places, or use Embedding")
    axis = call.axis(operation.axis)
    return graph.op("Gather", call[0], graph.constant(np.asarray(places, np.int64), "places"), axis=axis)


@emits("Permute")
def _permute(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    return _transposed([0, *layer.dims], call, graph)


@emits("Transpose", of="ops")
def _transpose(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    return _transposed(operation.axes or range(len(call.shape))[::-1], call, graph)


@emits("Swapaxes", of="ops")
def _swap(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    order = list(range(len(call.shape)))
    order[operation.axis1], order[operation.axis2] = order[operation.axis2], order[operation.axis1]
    return _transposed(order, call, graph)


@emits("Moveaxis", of="ops")
def _move(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    rank = len(call.shape)
    moved = np.moveaxis(np.empty(range(1, rank + 1)), operation.source, operation.destination)
    return _transposed([size - 1 for size in moved.shape], call, graph)  # axes, known by their lengths


def _transposed(order: Sequence[int], call: Call, graph: Emitter) -> ir.Value:
    rank = len(call.shape)
    if int(order[0]) % rank != 0:
        raise refuse(call.layer, "it moves the batch", "leave the first axis where it is")
    moved = [axis % rank + call.outer for axis in order[1:]]
    return graph.op("Transpose", call[0], perm=[0, *range(1, call.outer + 1), *moved])


@emits("ExpandDims", of="ops")
def _expand(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    return graph.op("Unsqueeze", call[0], graph.constant(call.new_axes(operation.axis), "axes"))


@emits("Squeeze", of="ops")
def _squeeze(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    ones = [axis for axis, size in enumerate(call.shape) if size == 1]
    axes = call.axes(ones if operation.axis is None else operation.axis)
    return graph.op("Squeeze", call[0], graph.constant(axes, "axes"))


@emits("Reshape")
def _reshape_layer(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    return _reshaped(layer.target_shape, call, graph)


@emits("Reshape", of="ops")
def _reshape(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    batch, *target = operation.newshape
    if batch not in (-1, None, call.shape[0]) and call.shape[0] is not None:
        raise refuse(operation, f"it reshapes the batch, to {operation.newshape}", "keep the first axis: (-1, …)")
    if not target:
        raise refuse(operation, "it lays everything in one row", "keep the first axis: (-1, …)")
    return _reshaped(target, call, graph)


@emits("Flatten")
def _flatten(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    """All axes but the batch in one: of a value that has no time, or inside TimeDistributed."""
    if len(call.shape) == 1:
        return graph.op("Unsqueeze", call[0], graph.constant([call.outer + 1], "axis"))
    return _reshaped([-1], call, graph)


def _reshaped(target: Sequence[int | None], call: Call, graph: Emitter) -> ir.Value:
    """Give all axes behind the batch a new shape; axis 1 may be time, and stays as it is where it can."""
    first, *rest = call.shape[1:]
    wanted = [-1 if size is None else int(size) for size in target]
    kept = [0] * (1 + call.outer)
    features = math.prod(size or 1 for size in rest)
    if wanted[0] == first or (wanted[0] == -1 and math.prod(wanted[1:]) == features):
        first, kept, wanted = 1, [*kept, 0], wanted[1:]
    if -1 in wanted and first is not None:
        wanted[wanted.index(-1)] = first * features // -math.prod(wanted)
    return graph.op("Reshape", call[0], graph.constant([*kept, *wanted], "shape"))


@emits("Tile", of="ops")
def _tile(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    given = operation.repeats if isinstance(operation.repeats, list | tuple) else [operation.repeats]
    rank = len(call.shape)
    if len(given) > rank:
        raise refuse(operation, "it adds axes", "use keras.ops.expand_dims first")
    repeats = [1] * (rank - len(given)) + [int(item) for item in given]
    if repeats[0] != 1:
        raise refuse(operation, "it repeats the batch", "repeat along the features")
    full = [1] * (1 + call.outer) + repeats[1:]
    return graph.op("Tile", call[0], graph.constant(full, "repeats"))


@emits("Repeat", of="ops")
def _repeat(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    if operation.axis is None:
        raise refuse(operation, "it lays everything in one row", "give it an axis")
    axis = call.axis(operation.axis)
    places = np.repeat(np.arange(call.size(axis)), np.asarray(operation.repeats))
    return graph.op("Gather", call[0], graph.constant(places, "places"), axis=axis)


@emits("Roll", of="ops")
def _roll(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    if operation.axis is None or np.ndim(operation.axis):
        raise refuse(operation, "it rolls along several axes", "give it one axis, and one after the other")
    axis = call.axis(operation.axis)
    places = np.roll(np.arange(call.size(axis)), int(operation.shift))
    return graph.op("Gather", call[0], graph.constant(places, "places"), axis=axis)


@emits("RepeatVector")
def _repeat_vector(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    raise refuse(
        layer,
        "it makes a sequence out of what is known only at the end of another",
        "convert the encoder and the decoder as two models",
    )

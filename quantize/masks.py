"""What masks say: each is evaluated for sequences of some lengths, and read off by distance.

Exporters write masks in many ways (Trilu, Range and Less, CumSum, a stored matrix); what they all mean is a number for
each pair of frames. Where that depends on the distance between the two alone, it can be streamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.errors import ConversionError
from edgernn.quantize.graph import Builder, array_of
from edgernn.quantize.stepping import invoke_onnx

__all__ = ["by_distance", "evaluate", "sizes_for"]

Arrays = Mapping[ir.Value, NDArray[Any]]


def evaluate(values: Sequence[ir.Value], given: Arrays, frames: int) -> list[NDArray[Any]]:
    """Compute values of the sequence graph that depend on `given`, on constants, and on the length: `frames`."""
    builder = Builder("mask")
    known: dict[ir.Value, ir.Value] = {}
    fed: dict[str, NDArray[Any]] = {}

    def enter(array: NDArray[Any]) -> ir.Value:
        entered = builder.input("given", array.shape, ir.DataType.from_numpy(array.dtype))
        fed[entered.name or ""] = array
        return entered

    def copy_of(value: ir.Value) -> ir.Value:
        node = value.producer()
        if value in known:
            return known[value]
        if value in given:
            known[value] = enter(given[value])
        elif value.is_initializer():
            known[value] = builder.constant(array_of(value))
        elif node is None:
            raise ConversionError(f"{value.name} depends on the frames themselves")
        elif node.op_type == "Shape" and node.inputs[0] is not None:
            source = node.inputs[0]
            known.setdefault(source, enter(np.zeros(sizes_for(source, frames), np.float32)))
            known[value] = builder.copy(node, [known[source]])[0]
        else:
            inputs = [None if item is None else copy_of(item) for item in node.inputs]
            known.update(zip(node.outputs, builder.copy(node, inputs), strict=True))
        return known[value]

    for index, value in enumerate(values):
        builder.output(copy_of(value), f"value_{index}")
    result = invoke_onnx(ir.to_proto(builder.finish()).SerializeToString())(fed)
    return [result[f"value_{index}"] for index in range(len(values))]


def sizes_for(value: ir.Value, frames: int) -> list[int]:
    """Return the shape of a value of the sequence graph for one stream of `frames` frames."""
    return [
        size if isinstance(size, int) else 1 if str(size.value) == "batch" else frames for size in value.shape or ()
    ]


def by_distance(mask: NDArray[Any], distances: Sequence[int]) -> NDArray[Any] | None:
    """Read a matrix `(…, frames, frames)` by how far behind a row its column is: `(…, distances)`.

    None where that is not the same at every frame. Negative distances look back.

    >>> by_distance(np.tril(np.ones((4, 4))), [-1, 0, 1])
    array([1., 1., 0.])
    """
    columns = []
    for distance in distances:
        along = np.diagonal(mask, distance, -2, -1)
        if not (along == along[..., :1]).all():
            return None
        columns.append(along[..., 0])
    return np.stack(columns, -1)

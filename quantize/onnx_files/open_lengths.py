"""Models that were exported for one length: what was only written down of it is made free again.

Each change leaves what the model computes at its own length as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.errors import ConversionError
from edgernn.quantize.graph import array_of, attribute
from edgernn.quantize.onnx_files.probe import Probe, Run, Shapes

__all__ = ["open_lengths"]

LENGTH = 61  # where the file leaves one open: a prime, so that it is no size of anything else


def open_lengths(model: ir.Model, frames: Sequence[ir.Value]) -> None:
    """Let a Reshape to a written-down shape take its leading sizes, or the length, from its input.

    `[50, 1, 8]` for an input of the shape (50, 1, 1, 8) becomes `[0, 0, 8]`. Exporters write such sizes even where the
    file says that they are open; it then runs at those sizes only.
    """
    reshapes = [node for node in model.graph if _target(node) is not None]
    probe = Probe(model)
    written = {size for node in reshapes for size in (_target(node) or [])[:1] if size > 1}
    runs = ((shapes, probe(shapes)) for shapes in (_shapes(frames, size) for size in (LENGTH, *sorted(written))))
    shapes, run = next(((shapes, run) for shapes, run in runs if run is not None), ({}, None))
    lengths = {size for shape in shapes.values() for size in shape[:-1] if size > 1}
    opened = [_open(model.graph, node, run, lengths) for node in reshapes] if run else []
    if not run or not any(opened):
        return
    again = Probe(model)(shapes) or {}
    for value in model.graph.outputs:
        if not np.array_equal(run[value.name or ""], again.get(value.name or "", np.empty(0)), equal_nan=True):
            raise ConversionError(f"{value.name} is not what it was when the length {sorted(lengths)} was opened")


def _shapes(frames: Sequence[ir.Value], length: int) -> Shapes:
    return {
        value.name or "": tuple(size if isinstance(size, int) and size > 0 else length for size in value.shape or ())
        for value in frames
    }


def _target(node: ir.Node) -> list[int] | None:
    """Return the shape that a Reshape has written down."""
    target = node.inputs[1] if node.op_type == "Reshape" else None
    return None if target is None or not target.is_initializer() else array_of(target).tolist()


def _open(graph: ir.Graph, node: ir.Node, run: Run, lengths: set[int]) -> bool:
    source, wanted = node.inputs[0], _target(node)
    if source is None or wanted is None or source.name not in run:
        return False
    opened = _opened(wanted, run[source.name].shape, lengths)
    if opened == wanted or (attribute(node, "allowzero", 0) and 0 in wanted):
        return False
    node.attributes.pop("allowzero", None)
    node.replace_input_with(1, _initializer(graph, f"{node.outputs[0].name}_shape", np.array(opened, np.int64)))
    return True


def _opened(wanted: list[int], given: Sequence[int], lengths: set[int]) -> list[int]:
    """Return the target shape with leading sizes of the input as 0, and the length behind them as -1.

    >>> _opened([50, 1, 8], (50, 1, 1, 8), {50})
    [0, 0, 8]
    >>> _opened([50, 8], (1, 50, 8), {50})
    [-1, 8]
    >>> _opened([-1, 20, 2, 4], (61, 20, 8), {61, 20})
    [0, 0, 2, 4]
    """
    same, left = 0, math.prod(given) // -math.prod(wanted) if -1 in wanted and 0 not in wanted else -1
    full = [left if size == -1 else size for size in wanted]
    while same < min(len(wanted), len(given)) - 1 and full[same] in (0, given[same]):
        same += 1
    rest = wanted[same:]
    if -1 not in rest and len(lengths & set(rest)) == 1 and sum(size in lengths for size in rest) == 1:
        rest = [-1 if size in lengths else size for size in rest]
    return [0] * same + rest


def _initializer(graph: ir.Graph, name: str, array: NDArray[np.int64]) -> ir.Value:
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.INT64), const_value=ir.Tensor(array)
    )
    graph.register_initializer(value)
    return value

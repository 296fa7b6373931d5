"""Any recurrent cell, and any under a mask, as the body of the ONNX operator Scan.

A frame that is masked leaves the states as they are, and gives the output of the frame before it (or zeros, where the
layer is asked for that).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.from_keras import Emitter, emit_trace
from edgernn.quantize.layer_call import Tensor
from edgernn.quantize.trace import trace

__all__ = ["Step", "scan_cell", "traced_step"]

Step = Callable[[ir.Value, Sequence[ir.Value], Emitter], tuple[ir.Value, list[ir.Value]]]
"""Emits a cell for one frame `(batch, features)` and its states `(batch, size)`; returns the output and new states."""


def scan_cell(
    step: Step, sizes: dict[str, int], output: int, x: ir.Value, mask: ir.Value | None, zeros: bool, graph: Emitter
) -> tuple[ir.Value, list[ir.Value]]:
    """Emit a cell over `x`, `(batch, time, features)`; return every output, `(batch, time, output)`, and final states.

    `sizes` has the states by name. `mask` is bool, `(batch, time)`; `zeros` is what masked frames then give instead of
    the output before them.
    """
    body = Emitter(f"{graph.scope}/body")
    body.scope = body.name
    held = {**sizes, "output": output} if mask is not None and not zeros else sizes
    entering = [body.input(f"{body.name}/{name}", ["batch", size]) for name, size in held.items()]
    frame = body.input(f"{body.name}/frame", ["batch", "features"])
    value, leaving = step(frame, entering[: len(sizes)], body)
    if mask is not None:
        counts = body.input(f"{body.name}/counts", ["batch"], ir.DataType.BOOL)
        counts = body.op("Unsqueeze", counts, body.constant([1], "axis"))
        fallback = body.constant(0.0, "zero") if zeros else entering[-1]
        leaving = [body.op("Where", counts, *pair) for pair in zip(leaving, entering, strict=False)]
        value = body.op("Where", counts, value, fallback)
        leaving += [] if zeros else [value]
    for place, result in enumerate([*leaving, value]):
        body.output(result, f"{body.name}/result_{place}")
    every, final = _scan(body, list(held.values()), x, mask, graph)
    return every, final[: len(sizes)]


def _scan(
    body: Emitter, sizes: list[int], x: ir.Value, mask: ir.Value | None, graph: Emitter
) -> tuple[ir.Value, list[ir.Value]]:
    sequences = [graph.op("Transpose", x, perm=[1, 0, 2])]
    sequences += [] if mask is None else [graph.op("Transpose", mask, perm=[1, 0])]
    batch = graph.op("Shape", x, start=0, end=1)
    zero = graph.constant(np.zeros(1, np.float32), "zero")
    widths = [graph.op("Concat", batch, graph.constant([size], "size"), axis=0) for size in sizes]
    initial = [graph.op("Expand", zero, width) for width in widths]
    attributes = {"body": body.graph, "num_scan_inputs": len(sequences)}
    *final, every = graph.ops("Scan", [*initial, *sequences], len(sizes) + 1, attributes)
    return graph.op("Transpose", every, perm=[1, 0, 2]), final


def traced_step(layer: Any, cell: Any, features: int, sizes: dict[str, int]) -> Step:
    """Return the step that the code of a cell of `layer` makes."""

    def step(frame: ir.Value, states: Sequence[ir.Value], body: Emitter) -> tuple[ir.Value, list[ir.Value]]:
        given = [
            Tensor(value, (None, size), "float32")
            for value, size in zip((frame, *states), (features, *sizes.values()), strict=True)
        ]
        training = {"training": False} if getattr(cell, "_call_has_training_arg", False) else {}
        where = f"layer '{layer.name}' ({type(layer).__name__}), its cell {type(cell).__name__}"
        output, *new = emit_trace(trace(cell.call, (given[0], given[1:]), training, where), body)
        return output, new

    return step

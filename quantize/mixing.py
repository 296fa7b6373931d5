"""Whether the sequences of a batch stay apart: what a model says of one must not depend on those beside it.

An operator may join them in many ways (a mean over the batch, a product, an axis that broadcasts over another), so that
this is not read from operators: the model is run on two sequences together, and on each alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.errors import ConversionError, UnsupportedLayerError
from edgernn.quantize.onnx_files.probe import RANDOM, Probe, Run, Shapes, independent
from edgernn.quantize.onnx_files.session import TooLargeError

__all__ = ["KEEP_APART", "refuse_mixing", "run_together"]

LENGTHS = (24, 240, 4800)  # the first at which the model runs: some need many frames
DIFFERENCE = 1e-2  # of the largest number: rounding is far below, another sequence far above


def run_together(sequence: ir.Model) -> bool:
    """Return whether a graph with inputs `(batch, time, features...)` takes two streams, where it takes one.

    Raises `UnsupportedLayerError` where a node mixes them; see `refuse_mixing`.
    """
    try:
        probe = Probe(sequence)
    except ConversionError:  # it cannot be opened; what is wrong with it, the rules know
        return True
    for length in LENGTHS:
        shapes = {value.name or "": _sizes(value, length) for value in sequence.graph.inputs}
        try:
            runs = refuse_mixing(sequence, probe, shapes, dict.fromkeys(shapes, 0))
        except TooLargeError:
            break
        if runs is not None:
            return runs or any(map(_begins_somewhere, sequence.graph))
    return True


def _sizes(value: ir.Value, length: int) -> tuple[int, ...]:
    return (2, *(size if isinstance(size, int) else length for size in (value.shape or ())[1:]))


def refuse_mixing(model: ir.Model, probe: Probe, shapes: Shapes, batch: Mapping[str, int]) -> bool | None:
    """Raise `UnsupportedLayerError` naming the first node that mixes two streams.

    `shapes` has those of the inputs for two streams, `batch` the axes along which these are. Returns whether the model
    takes two, and None where that cannot be told: it does not run for one either, or never says the same twice.
    """
    if any(node.op_type in RANDOM for node in model.graph):
        return None
    fed = probe.noise(shapes, entries=2)
    parts = [{name: array.take([stream], batch[name]) for name, array in fed.items()} for stream in (0, 1)]
    together, *each = (probe.run(arrays) for arrays in (fed, *parts))
    alone = [run for run in each if run is not None]
    if together is None or len(alone) < 2:
        return False if len(alone) == 2 else None
    free = independent(model.graph, set(shapes))
    for node in model.graph:
        if any(_mixed(value.name or "", together, alone) for value in node.outputs if value.name not in free):
            raise UnsupportedLayerError(
                f"{node.name or node.op_type} ({node.op_type}) mixes the sequences of a batch: what it gives for one "
                f"depends on the others with it; {KEEP_APART}"
            )
    return True


KEEP_APART = (
    "let every operator work along time or features, and give what is joined the same axes, the batch first; an ONNX "
    "file that is meant for one sequence is exported with a batch of one"
)


def _begins_somewhere(node: ir.Node) -> bool:
    """Whether a recurrent operator has an initial state, which the sequence graph has once for all streams."""
    return node.op_type in ("GRU", "LSTM", "RNN") and any(value is not None for value in node.inputs[5:7])


def _mixed(name: str, together: Run, alone: Sequence[Run]) -> bool:
    arrays = [run[name] for run in (together, *alone) if name in run and run[name].dtype.kind == "f"]
    if len(arrays) < 3 or arrays[1].shape != arrays[2].shape:  # its shape depends on what the frames are
        return False
    return not any(all(map(_close, parts, arrays[1:])) for parts in _parts(arrays[0], arrays[1].shape))


def _parts(both: NDArray[np.float32], shape: tuple[int, ...]) -> list[list[NDArray[np.float32]]]:
    """Return what may be the share of each stream in what two give: halves of an axis, or every second place of it."""
    if both.shape == shape:
        return [[both, both]]
    wide = [axis for axis, (two, one) in enumerate(zip(both.shape, shape, strict=False)) if two != one]
    if both.ndim != len(shape) or len(wide) > 1 or both.shape[wide[0]] != 2 * shape[wide[0]]:
        return []
    places = np.arange(both.shape[wide[0]])
    return [[both.take(part, wide[0]) for part in way] for way in (np.split(places, 2), (places[::2], places[1::2]))]


def _close(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    known = np.isfinite(other)
    if not (np.isfinite(one) == known).all():
        return False
    largest = float(np.abs(other[known]).max(initial=0))
    return bool((np.abs(one[known] - other[known]) <= DIFFERENCE * largest).all())

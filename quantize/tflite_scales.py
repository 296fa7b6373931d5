"""The scale of every integer signal of a TFLite file, from the ranges that were observed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from edgernn.quantize.tflite_graph import Scales, TFLiteGraph
from edgernn.quantize.tflite_kernels import ALIKE, FIXED, WEIGHTS
from edgernn.quantize.tflite_kinds import FLOAT, INT8, Kinds, is_product, signals

__all__ = ["Typed", "choose_scales", "repeated"]

Typed = tuple[int, str]
"""A tensor in one kind of integers: it may be needed in several."""

TensorRanges = Mapping[int, tuple[float, float]]
HEADROOM = 2.0  # of int16, which has levels to spare: what was not seen while calibrating need not saturate
OPERATORS_BACK = 3
LARGEST = 1e30  # beyond stands for infinity (a maximum over no frame yet)


def choose_scales(
    graph: TFLiteGraph, kinds: Kinds, states: Sequence[tuple[int, int]], ranges: TensorRanges
) -> dict[Typed, Scales]:
    """Return the scale of each tensor in each kind of integers that it might be needed in.

    Signals that a kernel copies or compares share one, and so do the two ends of a state: it is carried bit for bit.
    So does what a cell computes in each of several frames: they are the same values, a little later, and a file says
    a scale that many tensors have only once.
    """
    groups = _Groups()
    for tensors in repeated(graph):
        for kind in ("int8", "int16"):
            groups.join([(tensor, kind) for tensor in tensors])
    for place, op in enumerate(graph.operators):
        kind = kinds.operators[place]
        if graph.name(op) in ALIKE and kind != FLOAT:
            groups.join([(tensor, kind) for tensor in (*signals(graph, op), *op.outputs)])
    for entering, leaving in states:
        groups.join([(entering, kinds.tensors[entering]), (leaving, kinds.tensors[entering])])
    made = {
        (op.outputs[0], kind): FIXED[graph.name(op), kind]
        for op, kind in zip(graph.operators, kinds.operators, strict=True)
        if (graph.name(op), kind) in FIXED
    }
    scales: dict[Typed, Scales] = {}
    for tensor in {*ranges, *_constants(graph)}:
        for kind in ("int8", "int16"):
            if (tensor, kind) not in scales:
                members = groups.of((tensor, kind))
                scales.update(dict.fromkeys(members, _common(graph, members, ranges, made)))
    return scales


def repeated(graph: TFLiteGraph) -> list[list[int]]:
    """Return which results are the same value in each of several frames: of layers whose products share weights.

    They are known by what they are computed of, a few operators back: further back the first frames differ.
    """
    made = {int(tensor): op for op in graph.operators for tensor in op.outputs}
    weights = {id(op): op.inputs[WEIGHTS] for op in made.values() if is_product(graph, op)}
    readers = Counter(weights.values())
    layers = {graph.layer(op) for op in made.values() if readers[weights.get(id(op))] > 1}

    def origin(tensor: int, back: int) -> Hashable:
        op = made.get(tensor)
        if op is None:
            return tensor if graph.constant(tensor) is not None else "state"
        if back == 0 or id(op) in weights:
            return graph.name(op), weights.get(id(op))
        return graph.name(op), *(origin(read, back - 1) for read in signals(graph, op))

    found: dict[Hashable, list[int]] = {}
    for tensor, op in made.items():
        if graph.layer(op) in layers and graph.dtype(tensor) == FLOAT:
            found.setdefault((graph.layer(op), graph.shape(tensor), origin(tensor, OPERATORS_BACK)), []).append(tensor)
    return list(found.values())


def _constants(graph: TFLiteGraph) -> set[int]:
    return {t for op in graph.operators for t in signals(graph, op) if graph.constant(t) is not None}


def _common(graph: TFLiteGraph, members: Sequence[Typed], ranges: TensorRanges, made: Mapping[Typed, Scales]) -> Scales:
    kind = members[0][1]
    low = high = 0.0
    for tensor, _ in members:
        least, most = _range(graph, tensor, ranges)
        low, high = min(low, least), max(high, most)
    for fixed in (made[member] for member in members if member in made):
        least, most = ((level - fixed.zero_point) * float(fixed.scale) for level in _levels(kind))
        if least <= low and high <= most + float(fixed.scale):  # 1.0 itself is one level beyond: it saturates
            return fixed
    if kind == INT8:
        scale = (high - low) / 255 or 1 / 255
        return Scales(scale, round(-128 - low / scale))
    return Scales(HEADROOM * max(-low, high) / 32767 or 1 / 32767)


def _levels(kind: str) -> tuple[int, int]:
    limits = np.iinfo(kind)
    return limits.min, limits.max


def _range(graph: TFLiteGraph, tensor: int, ranges: TensorRanges) -> tuple[float, float]:
    constant = graph.constant(tensor)
    least, most = ranges.get(tensor, (0.0, 0.0)) if constant is None else (float(constant.min()), float(constant.max()))
    return (least if abs(least) < LARGEST else 0.0), (most if abs(most) < LARGEST else 0.0)


class _Groups:
    """Sets of tensors that share a scale."""

    def __init__(self) -> None:
        self._sets: dict[Typed, list[Typed]] = {}

    def join(self, members: Sequence[Typed]) -> None:
        merged = list(dict.fromkeys(item for member in members for item in self.of(member)))
        self._sets.update(dict.fromkeys(merged, merged))

    def of(self, member: Typed) -> list[Typed]:
        return self._sets.get(member, [member])

"""Which operators of a float TFLite file are to compute in int8, and which in something wider.

Products (matrices, convolutions) compute in int8: they are nearly all of the work. What is element-wise is *wide*:
float32, or int16 where no float is allowed. So a recurrent cell adds and multiplies its state in more than eight
bits, in which small updates would die and errors pile up from step to step. Moves (slices, windows, reshapes) go with
their neighbours, and a state is of the kind that what computes it is.

A product is *static* (int8 in and out, scales fixed beforehand) or *hybrid* (float in and out, int8 weights; the kernel
quantizes its input as it comes). Between float operators, hybrid is truer, since the output is not rounded, and with
XNNPACK faster, since nothing is converted around it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgernn.errors import ConversionError
from edgernn.quantize.products import FRONT_END
from edgernn.quantize.tflite_graph import TFLiteGraph
from edgernn.quantize.tflite_kernels import HYBRID_VERSIONS, INTEGER_KERNELS, MOVES, PRODUCTS, SIGNAL, WEIGHTS

__all__ = [
    "FLOAT",
    "HYBRID",
    "INT8",
    "INT16",
    "LEAST_WEIGHTS",
    "Kinds",
    "decide",
    "in_front_end",
    "is_product",
    "signals",
]

FLOAT, HYBRID, INT8, INT16 = "float32", "hybrid", "int8", "int16"
LEAST_WEIGHTS = 1024  # smaller ones stay in float where the file may hold floats: there is nothing to win


@dataclass(frozen=True)
class Kinds:
    """What each operator computes in, and what each signal is."""

    operators: Sequence[str]
    tensors: Mapping[int, str]
    """What each signal (graph input, or output of an operator) is when it comes into being."""


def decide(graph: TFLiteGraph, states: Sequence[tuple[int, int]], products: str, integer_only: bool = False) -> Kinds:
    """Return the kinds; `states` are pairs of tensors, (in, out).

    `products` are "hybrid", "static", or "mixed": hybrid between float operators, static in chains of products.
    Raises `ConversionError` naming an operator without an integer kernel, where all must be integers.
    """
    return _Decision(graph, states, products, integer_only).made()


class _Decision:
    def __init__(
        self, graph: TFLiteGraph, states: Sequence[tuple[int, int]], products: str, integer_only: bool
    ) -> None:
        self.graph, self.states, self.products, self.integer_only = graph, states, products, integer_only
        self.wide = INT16 if integer_only else FLOAT
        self.leaving = dict(states)
        self.entering = {leaving: [i for i, o in states if o == leaving] for _, leaving in states}
        self.shown = Counter(graph.ends("output").values()) - Counter(leaving for _, leaving in states)
        self.producer = {tensor: place for place, op in enumerate(graph.operators) for tensor in op.outputs}
        self.readers: dict[int, list[int]] = {}
        for place, op in enumerate(graph.operators):
            for tensor in signals(graph, op):
                self.readers.setdefault(tensor, []).append(place)
        self.kinds = [self._first(op) for op in graph.operators]
        self.moves = {
            place
            for place, (op, kind) in enumerate(zip(graph.operators, self.kinds, strict=True))
            if kind == INT8 and graph.name(op) in MOVES
        }

    def made(self) -> Kinds:
        self._settle_moves()
        if self.products == "mixed":
            for place, op in enumerate(self.graph.operators):
                if self.graph.name(op) == "FULLY_CONNECTED" and self.kinds[place] == INT8 and self._between_floats(op):
                    self.kinds[place] = HYBRID
            self._settle_moves()
        produced = {tensor: self._native(tensor) for tensor in self.producer}
        return Kinds(self.kinds, {t: self._native(t) for t in self.graph.ends("input").values()} | produced)

    def _first(self, op: Any) -> str:
        name = self.graph.name(op)
        if is_product(self.graph, op):
            return self._product(op, name)
        if name in MOVES:
            return INT8
        if not self.integer_only or not self._has_floats(op):
            return FLOAT
        if name not in INTEGER_KERNELS:
            raise ConversionError(
                f"{self.graph.label(op.outputs[0])}: the operator {name} has no integer form in TFLite, so that the "
                "file cannot be integer-only; replace that layer, or convert without --target integer-only"
            )
        return INTEGER_KERNELS[name]

    def _has_floats(self, op: Any) -> bool:
        return any(tensor >= 0 and self.graph.dtype(tensor) == FLOAT for tensor in (*op.inputs, *op.outputs))

    def _product(self, op: Any, name: str) -> str:
        weights = self.graph.constant(op.inputs[WEIGHTS])
        if self.integer_only or self.products == "static":
            return INT8
        if in_front_end(self.graph, op):
            return FLOAT
        if weights is None or weights.size < LEAST_WEIGHTS:
            return FLOAT
        if self.products == "hybrid":
            return HYBRID if name in HYBRID_VERSIONS else FLOAT
        return INT8

    def _between_floats(self, op: Any) -> bool:
        (source,) = signals(self.graph, op)
        return self._native(source) == FLOAT and not any(map(self._leads_to_int8, op.outputs))

    def _leads_to_int8(self, tensor: int) -> bool:
        return any(
            self.kinds[place] == INT8
            and (op := self.graph.operators[place])
            and (is_product(self.graph, op) or any(map(self._leads_to_int8, op.outputs)))
            for place in self.readers.get(tensor, ())
        )

    def _settle_moves(self) -> None:
        """Put moves into int8 whose results all go to products, or whose inputs all come from them.

        But not those that have several of what would be converted on one side, and one on the other: the frames of a
        cell are joined before they become int8, and no longer int8 when they are parted.
        """
        products = {place for place, kind in enumerate(self.kinds) if kind == INT8} - self.moves

        def goes_to_products(place: int, kept: set[int]) -> bool:
            wide = {self._maker(tensor) for tensor in self._read(place)} - products - self.moves - {None}
            return len(wide) < 2 and all(self._read_only_by(products | kept, t) for t in self._results(place))

        before = _largest(self.moves, goes_to_products)

        def comes_from_products(place: int, kept: set[int]) -> bool:
            made = (self._made_by(products | before | kept, tensor) for tensor in self._read(place))
            return len(self._results(place)) < 2 and all(made)

        behind = _largest(self.moves, comes_from_products)
        for place in self.moves:
            self.kinds[place] = INT8 if place in before | behind else self.wide

    def _read(self, place: int) -> list[int]:
        """Return the signals that an operator reads and that are not constant."""
        found = signals(self.graph, self.graph.operators[place])
        return [tensor for tensor in found if self.graph.constant(tensor) is None]

    def _results(self, place: int) -> list[int]:
        return [int(tensor) for tensor in self.graph.operators[place].outputs]

    def _read_only_by(self, places: set[int], tensor: int, seen: frozenset[int] = frozenset()) -> bool:
        """Tell whether nothing else reads a signal, in this step or as a state in the next one."""
        if tensor in seen:
            return True
        if tensor in self.shown and not self.integer_only:
            return False
        later = (self._read_only_by(places, other, seen | {tensor}) for other in self.entering.get(tensor, ()))
        return places.issuperset(self.readers.get(tensor, ())) and all(later)

    def _made_by(self, places: set[int], tensor: int) -> bool:
        maker = self._maker(tensor)
        return self.integer_only and tensor not in self.leaving if maker is None else maker in places

    def _maker(self, tensor: int) -> int | None:
        """Return what computes a signal, in this step or as a state in the last one; None for frames."""
        return self.producer.get(self.leaving.get(tensor, tensor))

    def _native(self, tensor: int) -> str:
        """Return what a signal is when it comes into being."""
        maker = self._maker(tensor)
        if maker is not None:
            return FLOAT if self.kinds[maker] == HYBRID else self.kinds[maker]
        if tensor not in self.leaving:
            return INT8 if self.integer_only else FLOAT  # frames
        integers = {place for place, kind in enumerate(self.kinds) if kind == INT8}
        return INT8 if self._read_only_by(integers, tensor) else self.wide  # a state that carries frames


def _largest(candidates: set[int], holds: Callable[[int, set[int]], bool]) -> set[int]:
    """Return the largest subset in which `holds(member, subset)` for every member."""
    kept = set(candidates)
    while dropped := {place for place in kept if not holds(place, kept)}:
        kept -= dropped
    return kept


def is_product(graph: TFLiteGraph, op: Any) -> bool:
    """Tell whether an operator multiplies a signal by constant weights."""
    name = graph.name(op)
    return name in PRODUCTS and graph.constant(op.inputs[WEIGHTS]) is not None


def in_front_end(graph: TFLiteGraph, op: Any) -> bool:
    """Tell whether an operator computes frames out of sound: TensorFlow numbers the scope that says so."""
    scopes = (part.partition("/")[0] for part in graph.label(op.outputs[0]).split(";"))
    return any(scope.rstrip("0123456789").rstrip("_") == FRONT_END for scope in scopes)


def signals(graph: TFLiteGraph, op: Any) -> list[int]:
    """Return the inputs of an operator that are real numbers and not its weights: sizes and axes are integers."""
    if is_product(graph, op):
        return [op.inputs[SIGNAL]]
    return [tensor for tensor in op.inputs if tensor >= 0 and graph.dtype(tensor) == FLOAT]

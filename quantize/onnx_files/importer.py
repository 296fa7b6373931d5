"""Building the sequence graph from the nodes of a file, with what several runs of the file say of each value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.graph import OPSET, Builder, array_of, plain_attributes
from edgernn.quantize.onnx_files.probe import Run, independent

__all__ = ["BATCH", "TIME", "Importer", "copied", "imported", "imports", "refuse"]

Import = Callable[[ir.Node, "Importer"], Sequence[ir.Value]]
_TABLE: dict[str, Import] = {}
TIME, BATCH = "time", "batch"
LOWER_OPSET = f"export the model with opset_version={OPSET}"


def imports(*op_types: str) -> Callable[[Import], Import]:
    """Enter the function that brings operators of these types into the form that the rules know."""

    def enter(function: Import) -> Import:
        _TABLE.update(dict.fromkeys(op_types, function))
        return function

    return enter


def imported() -> list[str]:
    """Return the operators that are brought into another form (once `operators` has filled the table)."""
    return sorted(_TABLE)


def refuse(node: ir.Node, reason: str, way_out: str = "") -> UnsupportedLayerError:
    """Make the error that names a node, the reason, and what can be done."""
    return UnsupportedLayerError(f"node {node.name} ({node.op_type}): {reason}" + (f"; {way_out}" if way_out else ""))


class Importer(Builder):
    """A builder that knows which value of the file became which, and what the runs say of it."""

    def __init__(self, model: ir.Model, data: Iterable[str], runs: Sequence[Run], length: int = 0) -> None:
        """Take a model, the inputs that bring data, and its runs: at one size, or as `Axes.runs` has them.

        `length` is how many frames the first run had.
        """
        super().__init__(model.graph.name or "model")
        self.model, self.runs = model, runs
        self.values: dict[ir.Value, ir.Value] = {}
        self.one_stream = ""
        """Why the graph cannot serve several streams, if it cannot."""
        self._length = length
        self._independent = independent(model.graph, set(data))

    def walk(self) -> None:
        """Bring over every node that depends on the contents of the inputs."""
        from edgernn.quantize.onnx_files.merged import bring_over, is_merged

        for node in self.model.graph:
            if all((value.name or "") in self._independent for value in node.outputs):
                continue
            self.scope = (node.name or "").strip("/")
            bring = bring_over if is_merged(node, self) else _TABLE.get(node.op_type, copied)
            outputs = bring(node, self)
            for old, new in zip(node.outputs, outputs, strict=False):
                self.values[old] = new
                self._describe(old, new)

    def _describe(self, old: ir.Value, new: ir.Value) -> None:
        if old.name in self.runs[0] and not new.is_initializer():
            array = self.runs[0][old.name]
            new.shape, new.type = ir.Shape(self.spread(old)), ir.TensorType(ir.DataType.from_numpy(array.dtype))

    def shapes(self, value: ir.Value) -> list[tuple[int, ...]]:
        """Return the shape that a value has in each run."""
        if value.is_initializer():
            return [array_of(value).shape] * len(self.runs)
        return [run[value.name or ""].shape for run in self.runs]

    def sizes(self, value: ir.Value) -> list[int | str]:
        """Return the shape of a value, with names where it depends on the length or else on the number of streams.

        Where the file serves one stream only, the batch is taken to be the first other axis of size one.
        """
        one, *others = self.shapes(value)
        if not others:
            return list(one)
        longer, *several = others
        sizes: list[int | str] = []
        for axis, size in enumerate(one):
            grows = longer[axis] != size
            widens = bool(several) and several[0][axis] != size
            frames = TIME if size == self._length else f"{TIME}_{size}"
            streams = BATCH if size == 1 else f"{BATCH}_{size}"  # together with so many others on one axis
            sizes.append(frames if grows else streams if widens else size)
        if not several and BATCH not in sizes and 1 in sizes:
            sizes[sizes.index(1)] = BATCH
        return sizes

    def merged_axis(self, value: ir.Value) -> int | None:
        """Return which axis of a value has the streams together with something else, None where none has."""
        names = [isinstance(size, str) and size.startswith(f"{BATCH}_") for size in self.sizes(value)]
        return names.index(True) if True in names else None

    def spread(self, value: ir.Value) -> list[int | str]:
        """Return the shape that a value is brought over with: with streams on an axis of their own."""
        sizes, axis = self.sizes(value), self.merged_axis(value)
        if axis is not None:
            sizes[axis : axis + 1] = [BATCH, int(str(sizes[axis]).rpartition("_")[2])]
        return sizes

    def time_axis(self, value: ir.Value) -> int | None:
        """Return which axis of a value depends on the length, None for a constant length."""
        one, longer = (self.shapes(value) * 2)[:2]
        return next((axis for axis, (a, b) in enumerate(zip(one, longer, strict=True)) if a != b), None)

    def is_constant(self, value: ir.Value | None) -> bool:
        """Tell whether a value has nothing to do with the contents of the inputs."""
        return value is not None and (value.name or "") in self._independent

    def arrays(self, node: ir.Node, value: ir.Value | None) -> list[NDArray[Any]]:
        """Return the contents of a constant in each run."""
        if value is None or not self.is_constant(value):
            raise refuse(node, f"it takes the computed value {value and value.name} where a constant is expected")
        if value.is_initializer():
            return [array_of(value)] * len(self.runs)
        return [run[value.name or ""] for run in self.runs]

    def array(self, node: ir.Node, value: ir.Value | None) -> NDArray[Any]:
        """Return the contents of a constant, which must not depend on the length or the number of streams.

        One number all over is that number, whatever the shape.
        """
        found = _common(self.arrays(node, value))
        if found is not None:
            return found
        raise refuse(
            node,
            f"the constant {value and value.name} depends on the length of the sequence",
            "a stream has no length; a position encoding, for example, counts frames from the beginning",
        )

    def get(self, node: ir.Node, value: ir.Value | None) -> ir.Value | None:
        """Return what a value of the file has become."""
        if value is None or value in self.values:
            return None if value is None else self.values[value]
        found = _common(self.arrays(node, value))
        if found is None:
            return self._from_length(node, value)
        return self.constant(found, (value.name or "constant").strip("/"))

    def _from_length(self, node: ir.Node, value: ir.Value) -> ir.Value:
        """Bring over what computes a constant from the length, such as the mask of an attention: rules read those."""
        if value in self.values:
            return self.values[value]
        first, *others = self.arrays(node, value)
        if all(np.array_equal(first, other) for other in others):
            return self.constant(first, (value.name or "constant").strip("/"))
        producer = value.producer()
        if producer is None:
            raise refuse(node, f"it takes {value.name}, which differs from run to run")
        inputs = [None if item is None else self._from_length(producer, item) for item in producer.inputs]
        scope, self.scope = self.scope, (producer.name or "").strip("/")
        for old, new in zip(producer.outputs, _copy(producer, inputs, self), strict=True):
            self.values[old] = new
            self._describe(old, new)
        self.scope = scope
        return self.values[value]

    def data(self, node: ir.Node, place: int = 0) -> ir.Value:
        """Return what input `place` of a node has become."""
        value = self.get(node, node.inputs[place])
        assert value is not None
        return value


def _common(arrays: Sequence[NDArray[Any]]) -> NDArray[Any] | None:
    """Return what arrays have in common: all of it, or one number all over; None where that is nothing."""
    first = arrays[0]
    if all(np.array_equal(first, other) for other in arrays):
        return first
    if all(array.size and (array == first.flat[0]).all() for array in arrays):
        return np.array(first.flat[0])
    return None


def copied(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """Take over a node as it is, if opset 17 has the same one."""
    return _copy(node, [graph.get(node, value) for value in node.inputs], graph)


def _copy(node: ir.Node, inputs: list[ir.Value | None], graph: Importer) -> Sequence[ir.Value]:
    while inputs and inputs[-1] is None:
        inputs.pop()
    attributes = plain_attributes(node)
    _check_opset(node, len(inputs), attributes)
    return graph.ops(node.op_type, inputs, len(node.outputs), attributes)


def _check_opset(node: ir.Node, inputs: int, attributes: dict[str, Any]) -> None:
    """Refuse a node that says something which opset 17 could not say."""
    try:
        schema = onnx.defs.get_schema(node.op_type, OPSET, "")
    except onnx.defs.SchemaError:
        raise refuse(node, f"there is no such operator in opset {OPSET}", LOWER_OPSET) from None
    new = [name for name in attributes if name not in schema.attributes]
    if new or inputs > schema.max_input:
        raise refuse(node, f"opset {OPSET} has no such form of it ({', '.join(new)})", LOWER_OPSET)

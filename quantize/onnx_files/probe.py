"""Running a model at chosen sizes, to see the shape and the contents of every value on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.errors import ConversionError
from edgernn.quantize.onnx_files.session import Session, TooLargeError, open_sizes

__all__ = ["RANDOM", "Probe", "Run", "Shapes", "independent"]

MOST_ELEMENTS = 10**7  # of one input
Shapes = Mapping[str, tuple[int, ...]]
Run = dict[str, NDArray[Any]]
"""Every value by its name."""


class Probe:
    """A model whose inputs may have any size, and whose every value comes out.

    Inputs get noise, or zeros where they take whole numbers.
    """

    def __init__(self, model: ir.Model) -> None:
        proto = open_sizes(ir.to_proto(model))
        known = {item.name for item in proto.graph.output}
        self._names = [name for node in proto.graph.node for name in node.output if name]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names if name not in known)
        self._run = Session(proto)
        self.failure = ""
        """Why the model could not be run the last time that it could not."""
        self._dtypes = {value.name: (value.dtype or ir.DataType.FLOAT).numpy() for value in model.graph.inputs}

    def __call__(self, shapes: Shapes) -> Run | None:
        """Run once with inputs of these shapes; return None if the model cannot, or they are beyond reason.

        Raises `TooLargeError` where it is memory that does not suffice.
        """
        if _too_large(shapes):
            self.failure = "its inputs would be too large"
            return None
        return self.run(self.noise(shapes))

    def noise(self, shapes: Shapes, entries: int = 1) -> Run:
        """Return noise for the inputs, of whole numbers those below `entries`: tables may have no more."""
        random = np.random.default_rng(0)
        return {
            name: random.standard_normal(shape).astype(np.float32)
            if self._dtypes[name] == np.float32
            else random.integers(0, entries, shape).astype(self._dtypes[name])
            for name, shape in shapes.items()
        }

    def run(self, fed: Run) -> Run | None:
        """Run once with these inputs; see above."""
        try:
            found = self._run(fed, self._names)
        except TooLargeError:
            raise
        except ConversionError as error:
            self.failure = str(error)
            return None
        return {**fed, **{name: array for name, array in found.items() if isinstance(array, np.ndarray)}}


def _too_large(shapes: Shapes) -> bool:
    return any(math.prod(shape) > MOST_ELEMENTS for shape in shapes.values())


def independent(graph: ir.Graph, data: set[str]) -> set[str]:
    """Return the names of the values that do not depend on the contents of the inputs `data`, shapes aside."""
    dependent = {value for value in graph.inputs if value.name in data}
    free = {value.name or "" for value in graph.initializers.values()}
    free |= {value.name or "" for value in graph.inputs if value not in dependent}
    for node in graph:
        if (
            node.op_type not in ("Shape", "Size") and any(value in dependent for value in _read(node))
        ) or node.op_type in RANDOM:
            dependent.update(node.outputs)
        else:
            free |= {value.name or "" for value in node.outputs}
    return free


RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


def _read(node: ir.Node) -> list[ir.Value | None]:
    """Return what a node reads, in its subgraphs too."""
    read = list(node.inputs)
    for item in node.attributes.values():
        graphs = [item.value] if item.type == ir.AttributeType.GRAPH else []
        graphs = list(item.value) if item.type == ir.AttributeType.GRAPHS else graphs
        for graph in graphs:
            read.extend(value for inner in graph.all_nodes() for value in inner.inputs)
            read.extend(graph.outputs)
    return read

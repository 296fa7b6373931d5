"""Writing a TFLite file so that it says each thing once.

A step of many frames is many operators, of which the converter's file says more than their weights take: a name, a
shape, an empty buffer and an empty quantization for each tensor. Equal strings, vectors and tables are shared here (a
flatbuffer is read by offsets, which may well be the same); an input or output has the name that the signature gives
it, any other tensor that of its layer.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from copy import copy
from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import NDArray

__all__ = ["packed"]


def packed(model: Any) -> bytes:
    """Return the file of a `ModelT`, which stays as it is."""
    model = copy(model)
    tables: dict[Hashable, int] = {}
    names = _names(model)
    model.subgraphs = [_graph(graph, names.get(place, {}), tables) for place, graph in enumerate(model.subgraphs)]
    builder = _Sharing(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _names(model: Any) -> dict[int, dict[int, bytes]]:
    """Return for each subgraph with a signature what that calls its inputs and outputs."""
    return {
        int(item.subgraphIndex): {int(entry.tensorIndex): entry.name for entry in (*item.outputs, *item.inputs)}
        for item in model.signatureDefs
    }


def _graph(graph: Any, names: Mapping[int, bytes], tables: dict[Hashable, int]) -> Any:
    graph = copy(graph)
    graph.tensors = [_tensor(tensor, names.get(place), tables) for place, tensor in enumerate(graph.tensors)]
    graph.operators = [_operator(op, tables) for op in graph.operators]
    return graph


def _tensor(tensor: Any, name: bytes | None, tables: dict[Hashable, int]) -> _Once:
    tensor = copy(tensor)
    tensor.name = name or (tensor.name or b"").partition(b"/")[0] or None
    tensor.shape = None if tensor.shape is None else np.asarray(tensor.shape, np.int32)
    if tensor.quantization is not None:
        parameters = tensor.quantization
        said = parameters.details is not None or (parameters.scale is not None and len(parameters.scale) > 0)
        tensor.quantization = _Once(parameters, tables) if said else None
    return _Once(tensor, tables)


def _operator(op: Any, tables: dict[Hashable, int]) -> Any:
    op = copy(op)
    op.inputs, op.outputs = (np.asarray(tensors, np.int32) for tensors in (op.inputs, op.outputs))
    if op.builtinOptions is not None:
        op.builtinOptions = _Once(op.builtinOptions, tables)
    return op


class _Once:
    """A table that is written the first time only."""

    def __init__(self, table: Any, written: dict[Hashable, int]) -> None:
        self._table, self._written = table, written
        self.key = (type(table), *((name, _plain(value)) for name, value in vars(table).items()))

    def Pack(self, builder: flatbuffers.Builder) -> int:
        if self.key not in self._written:
            self._written[self.key] = self._table.Pack(builder)
        return self._written[self.key]


def _plain(value: Any) -> Hashable:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    if isinstance(value, _Once):
        return value.key
    return tuple(value) if isinstance(value, list) else value  # other tables are like themselves alone


class _Sharing(flatbuffers.Builder):  # type: ignore[misc]
    """Writes equal strings and arrays once."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._places: dict[Hashable, int] = {}

    def CreateString(self, text: Any, *options: str) -> int:
        if text not in self._places:
            self._places[text] = super().CreateString(text, *options)
        return self._places[text]

    def CreateNumpyVector(self, array: NDArray[Any]) -> int:
        key = _plain(array)
        if key not in self._places:
            self._places[key] = super().CreateNumpyVector(array)
        return self._places[key]

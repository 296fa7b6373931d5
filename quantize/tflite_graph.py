"""A TFLite file taken apart: its operators, tensors and constants, to be rewritten and written again.

The file's one subgraph and one signature ("serving_default") are what a step needs; the schema is LiteRT's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgernn.quantize.tflite_pack import packed

__all__ = ["Scales", "TFLiteGraph", "parameters"]

_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_TYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}


class Scales(NamedTuple):
    """Quantization of a tensor: one scale, or one for each index along `axis`, or for each block of a row."""

    scale: Any
    """A number, or an array of them: `(rows, blocks)` of float16 where there are blocks."""
    zero_point: int = 0
    axis: int = 0
    block: int = 0
    """How many neighbours in a row of a matrix share a scale; 0 for no blocks."""


class TFLiteGraph:
    """A step in the form of a TFLite file."""

    def __init__(self, content: bytes) -> None:
        self._model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
        self._graph = self._model.subgraphs[0]
        for op in self._graph.operators:  # the reader gives arrays that cannot be written
            op.inputs, op.outputs = ([int(tensor) for tensor in tensors] for tensors in (op.inputs, op.outputs))
        signature = self._model.signatureDefs[0]
        self._entries = {"input": signature.inputs, "output": signature.outputs}
        self._codes = [(int(max(c.builtinCode, c.deprecatedBuiltinCode)), c.version) for c in self._model.operatorCodes]

    @property
    def operators(self) -> list[Any]:
        """The operators, in the order in which they run."""
        return self._graph.operators  # type: ignore[no-any-return]

    def ends(self, end: str) -> dict[str, int]:
        """Return the tensors of the signature's "input" or "output" by name."""
        return {entry.name.decode(): int(entry.tensorIndex) for entry in self._entries[end]}

    def name(self, operator: Any) -> str:
        """Return what an operator is called in the schema, such as "FULLY_CONNECTED"."""
        return str(_NAMES[self._codes[operator.opcodeIndex][0]])

    def version(self, operator: Any) -> int:
        """Return the version of an operator: what a runtime must know of it."""
        return int(self._codes[operator.opcodeIndex][1])

    def set_version(self, operator: Any, version: int) -> None:
        """Say which version of itself an operator is."""
        operator.opcodeIndex = self._code(self.name(operator), version)

    def operator(
        self, name: str, version: int, inputs: Sequence[int], outputs: Sequence[int], options: Any = None
    ) -> Any:
        """Return a new operator; it is not part of the graph until it is put into `operators`."""
        made = schema.OperatorT()
        made.opcodeIndex = self._code(name, version)
        made.inputs, made.outputs = list(inputs), list(outputs)
        if options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        return made

    def _code(self, name: str, version: int) -> int:
        code = getattr(schema.BuiltinOperator, name)
        if (code, version) not in self._codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), version
            self._model.operatorCodes.append(entry)
            self._codes.append((code, version))
        return self._codes.index((code, version))

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        shape = self._graph.tensors[tensor].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def dtype(self, tensor: int) -> str:
        """Return the type of a tensor's elements, such as "float32" or "int4"."""
        return str(_TYPES[self._graph.tensors[tensor].type])

    def label(self, tensor: int) -> str:
        """Return the name that the converter gave a tensor."""
        name = self._graph.tensors[tensor].name
        return name.decode() if name else f"tensor {tensor}"

    def layer(self, operator: Any) -> str:
        """Return the name of the layer that an operator was made for."""
        return self.label(operator.outputs[0]).partition("/")[0]

    def constant(self, tensor: int) -> NDArray[Any] | None:
        """Return the contents of a constant, None for what is computed."""
        data = self._model.buffers[self._graph.tensors[tensor].buffer].data if tensor >= 0 else None
        if data is None or not len(data):
            return None
        flat: NDArray[Any] = np.frombuffer(np.asarray(data, np.uint8).tobytes(), self.dtype(tensor))
        return flat.reshape(self.shape(tensor))

    def count(self) -> int:
        """Return how many tensors there are."""
        return len(self._graph.tensors)

    def add(
        self, like: int, dtype: str, scales: Scales | None = None, data: bytes | None = None, suffix: str = ""
    ) -> int:
        """Add a tensor of the shape of another one, constant where it has `data`; return its index."""
        made = schema.TensorT()
        made.shape, made.shapeSignature = self._graph.tensors[like].shape, None
        made.buffer = 0  # by convention the empty one
        if data is None:
            made.name = f"{self.label(like)}{suffix or ';' + dtype}".encode()
        else:
            made.buffer = self._buffer(data)
        self._graph.tensors.append(made)
        index = self.count() - 1
        self.retype(index, dtype, scales)
        return index

    def _buffer(self, data: bytes) -> int:
        made = schema.BufferT()
        made.data = np.frombuffer(data, np.uint8)
        self._model.buffers.append(made)
        return len(self._model.buffers) - 1

    def retype(self, tensor: int, dtype: str, scales: Scales | None = None) -> None:
        """Give a tensor another type of element and another quantization."""
        item = self._graph.tensors[tensor]
        item.type = getattr(schema.TensorType, dtype.upper())
        item.quantization = None if scales is None else self._blocks(scales) if scales.block else parameters(scales)

    def _blocks(self, scales: Scales) -> Any:
        """Return blockwise quantization: its scales are another tensor."""
        scale = schema.TensorT()
        scale.shape, scale.type = list(scales.scale.shape), schema.TensorType.FLOAT16
        scale.buffer = self._buffer(scales.scale.astype(np.float16).tobytes())
        self._graph.tensors.append(scale)
        details, made = schema.BlockwiseQuantizationT(), schema.QuantizationParametersT()
        details.scales, details.zeroPoints, details.blockSize = self.count() - 1, -1, scales.block
        made.detailsType, made.details = schema.QuantizationDetails.BlockwiseQuantization, details
        return made

    def set_end(self, end: str, name: str, tensor: int) -> None:
        """Let a named output of the signature be another tensor."""
        next(entry for entry in self._entries[end] if entry.name.decode() == name).tensorIndex = tensor

    def content(self) -> bytes:
        """Return the file, without the tensors and constants that nothing refers to any more."""
        self._graph.outputs = list(dict.fromkeys(self.ends("output").values()))
        self._drop_unused()
        return packed(self._model)

    def _drop_unused(self) -> None:
        graph, model = self._graph, self._model
        ends = [*self.ends("input").values(), *self.ends("output").values(), *graph.inputs, *graph.outputs]
        read = {int(i) for op in graph.operators for i in (*op.inputs, *op.outputs) if i >= 0} | {*map(int, ends)}
        blocks = [details for tensor in read if (details := _details(graph.tensors[tensor]))]
        used = sorted(read | {details.scales for details in blocks})
        place = {old: new for new, old in enumerate(used)}
        for details in blocks:
            details.scales = place[details.scales]
        for op in graph.operators:
            op.inputs, op.outputs = ([place.get(int(i), -1) for i in indices] for indices in (op.inputs, op.outputs))
        graph.inputs, graph.outputs = ([place[int(i)] for i in indices] for indices in (graph.inputs, graph.outputs))
        for entry in (*self._entries["input"], *self._entries["output"]):
            entry.tensorIndex = place[int(entry.tensorIndex)]
        graph.tensors = [graph.tensors[old] for old in used]
        model.metadata, model.description = [], b"EdgeRNN"  # what it said of versions and options was of another file
        kept = sorted({0, *(item.buffer for item in graph.tensors if self._is_filled(item.buffer))})
        moved = {old: new for new, old in enumerate(kept)}
        for item in graph.tensors:
            item.buffer = moved.get(item.buffer, 0)  # by convention the empty one: of what is computed
        model.buffers = [model.buffers[old] for old in kept]
        codes = [code for code, _ in Counter(op.opcodeIndex for op in graph.operators).most_common()]  # 0 goes unsaid
        for op in graph.operators:
            op.opcodeIndex = codes.index(op.opcodeIndex)
        model.operatorCodes = [model.operatorCodes[old] for old in codes]
        self._codes = [self._codes[old] for old in codes]

    def _is_filled(self, buffer: int) -> bool:
        data = self._model.buffers[buffer].data
        return data is not None and len(data) > 0


def _details(tensor: Any) -> Any:
    return tensor.quantization.details if tensor.quantization else None


def parameters(scales: Scales) -> Any:
    """Return scales as the schema has them."""
    parameters = schema.QuantizationParametersT()
    parameters.scale = np.atleast_1d(scales.scale).astype(np.float32)
    parameters.zeroPoint = np.full(len(parameters.scale), scales.zero_point, np.int64)
    parameters.quantizedDimension = scales.axis
    return parameters

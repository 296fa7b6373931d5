"""TFLite files of one operator each, in any kind of numbers: what kernels are tried with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgernn.quantize.tflite_graph import Scales, parameters
from edgernn.quantize.tflite_kernels import FIXED, version_for

__all__ = ["EXAMPLES", "file_of"]

Shape = tuple[int, ...]
SCALES = {"int8": Scales(1 / 32), "int16": Scales(1 / 8192)}  # from -4 to 4


class Tensor(NamedTuple):
    """One end of an operator; without a `dtype` it is of the kind that is tried, with `data` a constant."""

    shape: Shape
    dtype: str | None = None
    data: Sequence[int] | None = None


class Example(NamedTuple):
    """One use of an operator."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    options: dict[str, Any]


def _plain(count: int = 1, dtype: str | None = None, **options: Any) -> Example:
    """Elements of `count` inputs, each by itself."""
    return Example([Tensor((2, 4))] * count, [Tensor((2, 4), dtype)], options)


def _known(*numbers: int) -> Tensor:
    return Tensor((len(numbers),), "int32", numbers)


def _from(shape: Shape, *known: Tensor, to: Shape, **options: Any) -> Example:
    return Example([Tensor(shape), *known], [Tensor(to)], options)


def _weighted(weights: Shape, to: Shape, **options: Any) -> Example:
    channels = to[-1]
    signal = Tensor((1, 4) if len(weights) == 2 else (1, 4, 1, 4))
    known = [Tensor(weights, "weights", [1] * math.prod(weights)), Tensor((channels,), "bias", [0] * channels)]
    return Example([signal, *known], [Tensor(to)], options)


_POOL = {"filterHeight": 2, "filterWidth": 1, "strideH": 1, "strideW": 1, "padding": 1}
_STRIDES = {"strideH": 1, "strideW": 1, "padding": 1}
_AXIS = Tensor((), "int32", [0])
EXAMPLES: dict[str, Example] = {
    **dict.fromkeys(
        ("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "HARD_SWISH", "LOG", "LOGICAL_NOT", "LOGISTIC", "LOG_SOFTMAX",
         "NEG", "RELU", "RELU6", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE", "TANH"), _plain()),
    **dict.fromkeys(
        ("ADD", "DIV", "FLOOR_DIV", "FLOOR_MOD", "LOGICAL_AND", "LOGICAL_OR", "MAXIMUM", "MINIMUM", "MUL",
         "SQUARED_DIFFERENCE", "SUB"), _plain(2)),
    **dict.fromkeys(("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL"), _plain(2, "bool")),
    **dict.fromkeys(
        ("MEAN", "REDUCE_MAX", "REDUCE_MIN", "SUM"),
        Example([Tensor((2, 4)), _known(1)], [Tensor((2, 1))], {"of": "Reducer", "keepDims": True})),
    **dict.fromkeys(
        ("AVERAGE_POOL_2D", "MAX_POOL_2D"), _from((1, 4, 1, 4), to=(1, 3, 1, 4), of="Pool2D", **_POOL)),
    "BATCH_MATMUL": Example([Tensor((1, 2, 4)), Tensor((1, 4, 3))], [Tensor((1, 2, 3))], {}),
    "BROADCAST_TO": _from((1, 4), _known(2, 4), to=(2, 4)),
    "CONCATENATION": Example([Tensor((1, 4))] * 2, [Tensor((2, 4))], {"of": "Concatenation", "axis": 0}),
    "CONV_2D": _weighted((3, 2, 1, 4), (1, 3, 1, 3), of="Conv2D", dilationHFactor=1, dilationWFactor=1, **_STRIDES),
    "CUMSUM": _from((2, 4), _AXIS, to=(2, 4), of="Cumsum"),
    "DEPTHWISE_CONV_2D": _weighted(
        (1, 2, 1, 4), (1, 3, 1, 4), of="DepthwiseConv2D", depthMultiplier=1, dilationHFactor=1, dilationWFactor=1,
        **_STRIDES),
    "EXPAND_DIMS": _from((2, 4), _AXIS, to=(1, 2, 4)),
    "FILL": Example([_known(2, 4), Tensor(())], [Tensor((2, 4))], {}),
    "FULLY_CONNECTED": _weighted((3, 4), (1, 3), of="FullyConnected"),
    "GATHER": _from((2, 4), _known(1, 0, 1), to=(3, 4), of="Gather", axis=0),
    "LEAKY_RELU": _plain(of="LeakyRelu", alpha=0.25),
    "PACK": Example([Tensor((4,))] * 2, [Tensor((2, 4))], {"of": "Pack", "axis": 0, "valuesCount": 2}),
    "PAD": Example([Tensor((2, 4)), Tensor((2, 2), "int32", [1, 0, 0, 0])], [Tensor((3, 4))], {}),
    "PADV2": Example(
        [Tensor((2, 4)), Tensor((2, 2), "int32", [1, 0, 0, 0]), Tensor((1,), None, [1])], [Tensor((3, 4))], {}),
    "PRELU": Example([Tensor((2, 4)), Tensor((2, 4), "weights")], [Tensor((2, 4))], {}),
    "RESHAPE": _from((2, 4), _known(8), to=(8,)),
    "RESIZE_NEAREST_NEIGHBOR": _from((1, 2, 1, 4), _known(4, 1), to=(1, 4, 1, 4), of="ResizeNearestNeighbor"),
    "REVERSE_V2": _from((2, 4), _known(0), to=(2, 4)),
    "SELECT_V2": Example([Tensor((2, 4), "bool"), Tensor((2, 4)), Tensor((2, 4))], [Tensor((2, 4))], {}),
    "SLICE": _from((2, 4), _known(0, 1), _known(2, 2), to=(2, 2)),
    "SOFTMAX": _plain(of="Softmax", beta=1.0),
    "SPLIT": Example([_AXIS, Tensor((2, 4))], [Tensor((1, 4))] * 2, {"of": "Split", "numSplits": 2}),
    "SPLIT_V": Example(
        [Tensor((2, 4)), _known(1, 1), _AXIS], [Tensor((1, 4))] * 2, {"of": "SplitV", "numSplits": 2}),
    "SQUEEZE": _from((2, 1, 4), to=(2, 4), of="Squeeze", squeezeDims=[1]),
    "STRIDED_SLICE": _from((2, 4), _known(0, 0), _known(2, 4), _known(1, 2), to=(2, 2), of="StridedSlice"),
    "TILE": _from((1, 4), _known(2, 1), to=(2, 4)),
    "TRANSPOSE": _from((2, 4), _known(1, 0), to=(4, 2)),
    "UNPACK": Example([Tensor((2, 4))], [Tensor((4,))] * 2, {"of": "Unpack", "num": 2, "axis": 0}),
}  # fmt: skip
"""A use of each operator. CAST, QUANTIZE and DEQUANTIZE have two kinds: "int8 to int16"."""


def file_of(name: str, kind: str) -> bytes:
    """Return a file of one operator in a kind of numbers, such as "int8", "hybrid" or "int8 to int16"."""
    before, _, after = kind.partition(" to ")
    example = _plain() if after else EXAMPLES[name]
    signal = "float32" if before == "hybrid" else before
    kinds = {None: signal, "weights": "float32" if before == "float32" else "int8", "bias": _BIAS.get(signal, signal)}
    made, graph, op, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    made.version, made.buffers, made.operatorCodes, made.subgraphs = 3, [schema.BufferT()], [code], [graph]
    ends = [(item, kinds.get(item.dtype) or str(item.dtype)) for item in example.inputs]
    ends += [(item, item.dtype or after or signal) for item in example.outputs]
    graph.tensors = [_tensor(item, kind, made.buffers) for item, kind in ends]
    if (name, signal) in FIXED:
        graph.tensors[-1].quantization = parameters(FIXED[name, signal])
    if "bias" in [item.dtype for item, _ in ends] and signal in SCALES:
        graph.tensors[2].quantization = parameters(Scales(SCALES[signal].scale * SCALES["int8"].scale))
    graph.inputs = [place for place, item in enumerate(example.inputs) if item.data is None]
    op.opcodeIndex, op.inputs, op.outputs = 0, list(range(len(example.inputs))), []
    graph.operators, graph.outputs = [op], op.outputs
    op.outputs += range(len(example.inputs), len(ends))
    if "of" in example.options:
        op.builtinOptions = _options(**example.options)
        op.builtinOptionsType = getattr(schema.BuiltinOptions, type(op.builtinOptions).__name__.removesuffix("T"))
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = version_for(name, signal, 2 if name == "BROADCAST_TO" else 1)
    made.signatureDefs = [_signature(graph.inputs, graph.outputs)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _signature(inputs: Sequence[int], outputs: Sequence[int]) -> Any:
    made = schema.SignatureDefT()
    made.signatureKey, made.subgraphIndex = b"serving_default", 0
    made.inputs, made.outputs = ([_entry(tensor) for tensor in ends] for ends in (inputs, outputs))
    return made


def _entry(tensor: int) -> Any:
    made = schema.TensorMapT()
    made.name, made.tensorIndex = f"tensor{tensor}".encode(), tensor
    return made


_BIAS = {"int8": "int32", "int16": "int64"}


def _options(of: str, **values: Any) -> Any:
    options = getattr(schema, f"{of}OptionsT")()
    for name, value in values.items():
        assert hasattr(options, name), name
        setattr(options, name, value)
    return options


def _tensor(tensor: Tensor, kind: str, buffers: list[Any]) -> Any:
    made = schema.TensorT()
    made.shape, made.type, made.name, made.buffer = list(tensor.shape), getattr(schema.TensorType, kind.upper()), b"", 0
    if tensor.data is not None:
        made.buffer = len(buffers)
        buffers.append(schema.BufferT())
        buffers[-1].data = np.frombuffer(np.array(tensor.data, kind).tobytes(), np.uint8)
    made.quantization = parameters(SCALES[kind]) if kind in SCALES else None
    return made

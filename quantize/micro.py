"""What a program for TensorFlow Lite Micro has to register to run a file.

Which kernels it has was read from github.com/tensorflow/tflite-micro (tensorflow/lite/micro/kernels, 90b983c of
2026-08-20; CAST to bool is newer), and every line of it was tried in its interpreter.
"""

from __future__ import annotations

from typing import Any

from edgernn.quantize.tflite_graph import TFLiteGraph
from edgernn.quantize.tflite_kernels import PRODUCTS

__all__ = ["KERNELS", "micro_operators", "resolver_call"]

MOVED = "moved"
"""Said of an operator that computes nothing: a variable's handle, its reading and writing, the call that fills it."""
_BYTES = "ASSIGN_VARIABLE CALL_ONCE READ_VARIABLE VAR_HANDLE"  # states inside the file
_TABLE = {
    "float32": "CEIL COS EXP FLOOR FLOOR_DIV FLOOR_MOD LOG NEG ROUND SIN SQRT SQUARE",
    "float32 int8": "CUMSUM ELU GATHER HARD_SWISH LOG_SOFTMAX REDUCE_MAX REDUCE_MIN",
    "float32 int8 int16": """
        ABS AVERAGE_POOL_2D BATCH_MATMUL CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED LEAKY_RELU LOGISTIC
        MAX_POOL_2D MEAN PRELU RELU RELU6 RESIZE_NEAREST_NEIGHBOR RSQRT SELECT_V2 SOFTMAX SUM TANH TRANSPOSE
    """,
    "float32 int8 int32": "DIV FILL",
    "float32 int8 int16 int32": "ADD MUL PAD PADV2 SPLIT SPLIT_V SQUARED_DIFFERENCE SUB UNPACK",
    "float32 int8 int16 int32 int64": "MAXIMUM MINIMUM PACK",
    "float32 int8 int16 int32 int64 bool": "BROADCAST_TO CONCATENATION RESHAPE REVERSE_V2 SQUEEZE",
    "float32 int8 int16 int32 bool": "SLICE STRIDED_SLICE",
    "float32 int8 int32 int64": "GREATER GREATER_EQUAL LESS LESS_EQUAL",
    "float32 int8 int32 int64 bool": "EQUAL NOT_EQUAL",
    "bool": "LOGICAL_AND LOGICAL_NOT LOGICAL_OR",
    MOVED: _BYTES,
}  # fmt: skip
_CAST = ("float32", "int8", "int16", "int32", "bool")
KERNELS: dict[str, tuple[str, ...]] = {
    **{name: tuple(kinds.split()) for kinds, names in _TABLE.items() for name in names.split()},
    "CAST": tuple(f"{before} to {after}" for before in _CAST for after in _CAST),
    "DEQUANTIZE": ("int8 to float32", "int16 to float32"),
    "QUANTIZE": tuple(f"{before} to {after}" for before in _CAST[:4] for after in ("int8", "int16")),
}
"""Operator to the kinds of numbers that it has kernels for: those of its signal, or from which to which it goes."""
_SIGNAL = {"FILL": 1, "SELECT_V2": 1, "SPLIT": 1}  # of the others it is the first input
_SPELLED = {"BATCH_MATMUL": "BatchMatMul", "CUMSUM": "CumSum", "PADV2": "PadV2"}  # otherwise words in capitals


def resolver_call(name: str) -> str:
    """Return the method of MicroMutableOpResolver that registers an operator.

    >>> resolver_call("MAX_POOL_2D"), resolver_call("FULLY_CONNECTED")
    ('AddMaxPool2D()', 'AddFullyConnected()')
    """
    words = (word if word[:1].isdigit() else word.capitalize() for word in name.split("_"))
    return f"Add{_SPELLED.get(name, ''.join(words))}()"


def micro_operators(content: bytes) -> list[dict[str, Any]]:
    """Return for each operator of a file its resolver call, and whether there is a kernel for each use of it.

    The call is None where TensorFlow Lite Micro does not know the operator at all.
    """
    graph = TFLiteGraph(content)
    uses: dict[str, set[str]] = {}
    for op in graph.operators:
        uses.setdefault(graph.name(op), set()).add(_computes_in(graph, op))
    return [
        {
            "operator": name,
            "call": resolver_call(name) if name in KERNELS else None,
            "kinds": sorted(kinds),
            "kernel": kinds <= {*KERNELS.get(name, ())},
        }
        for name, kinds in sorted(uses.items())
    ]


def _computes_in(graph: TFLiteGraph, op: Any) -> str:
    """Return what a kernel is chosen by."""
    name = graph.name(op)
    if name in _BYTES.split():
        return MOVED
    signal = graph.dtype(op.inputs[_SIGNAL.get(name, 0)])
    if name in ("CAST", "DEQUANTIZE", "QUANTIZE"):
        return f"{signal} to {graph.dtype(op.outputs[0])}"
    mixed = name in PRODUCTS and signal == "float32" != graph.dtype(op.inputs[1])
    return "hybrid" if mixed else signal

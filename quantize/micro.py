"""What a program for TensorFlow Lite Micro has to register to run a file.

Which of its kernels compute in int8 and int16 was read from github.com/tensorflow/tflite-micro (2026-08).
"""

from __future__ import annotations

from typing import Any

from edgernn.quantize.tflite_graph import TFLiteGraph

__all__ = ["micro_operators", "resolver_call"]

MOVED = "moved"
"""Said of an operator that computes nothing: a variable's handle, its reading and writing, the call that fills it."""
_BOTH = """
    ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEQUANTIZE EXPAND_DIMS FULLY_CONNECTED
    LEAKY_RELU LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE RELU RELU6 RESHAPE REVERSE_V2
    RESIZE_NEAREST_NEIGHBOR SLICE SOFTMAX SPLIT SPLIT_V SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB TANH TRANSPOSE
    TRANSPOSE_CONV UNPACK
"""
_INT8 = "BROADCAST_TO CUMSUM ELU GATHER HARD_SWISH LOG_SOFTMAX REDUCE_MAX REDUCE_MIN RSQRT"
_FLOAT = "CEIL COS DIV EXP FLOOR LOG NEG ROUND SIN SQRT SQUARE SUM"
_BYTES = "ASSIGN_VARIABLE CALL_ONCE READ_VARIABLE VAR_HANDLE"  # states inside the file
_KERNELS = {
    **dict.fromkeys(_BOTH.split(), ("float32", "int8", "int16")),
    **dict.fromkeys(_INT8.split(), ("float32", "int8")),
    **dict.fromkeys(_FLOAT.split(), ("float32",)),
    **dict.fromkeys(_BYTES.split(), (MOVED,)),
}
_SPELLED = {"BATCH_MATMUL": "BatchMatMul"}  # otherwise words in capitals


def resolver_call(name: str) -> str:
    """Return the method of MicroMutableOpResolver that registers an operator.

    >>> resolver_call("MAX_POOL_2D"), resolver_call("FULLY_CONNECTED")
    ('AddMaxPool2D()', 'AddFullyConnected()')
    """
    words = (word if word[:1].isdigit() else word.capitalize() for word in name.split("_"))
    return f"Add{_SPELLED.get(name, ''.join(words))}()"


def micro_operators(content: bytes) -> list[dict[str, Any]]:
    """Return for each operator of a file its resolver call, and whether there is a kernel for each use of it."""
    graph = TFLiteGraph(content)
    uses: dict[str, set[str]] = {}
    for op in graph.operators:
        uses.setdefault(graph.name(op), set()).add(_computes_in(graph, op))
    return [
        {
            "operator": name,
            "call": resolver_call(name),
            "kinds": sorted(kinds),
            "kernel": kinds <= {*_KERNELS.get(name, ())},
        }
        for name, kinds in sorted(uses.items())
    ]


def _computes_in(graph: TFLiteGraph, op: Any) -> str:
    if graph.name(op) in _BYTES.split():
        return MOVED
    kinds = [graph.dtype(tensor) for tensor in (*op.inputs, *op.outputs) if tensor >= 0]
    if "float32" in kinds and graph.name(op) not in ("QUANTIZE", "DEQUANTIZE"):
        return "hybrid" if "int8" in kinds or "int4" in kinds else "float32"
    return next((kind for kind in ("int16", "int8") if kind in kinds), kinds[0])

"""Which files give the same bits on every machine: those in which nothing is rounded in an order of the kernel's own.

A sum of products depends on the order that a kernel takes and on whether it rounds between them, and the functions
of a gate on the polynomial: neither is fixed by ONNX or TFLite. What is fixed is one IEEE 754 operation for each
element, and moving elements. Integer products are left out: ONNX Runtime lets some of them saturate on processors
without VNNI instructions, and XNNPACK rounds them to 8 bits differently on x86 and ARM; so is every file
with a quantizing operator in it.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["is_exact"]

_MOVING = """
    Cast Concat Constant Expand Gather Identity Pad Reshape Slice Split Squeeze Tile Transpose Unsqueeze Where
    CONCATENATION EXPAND_DIMS GATHER PACK PAD PADV2 RESHAPE SELECT_V2 SLICE SPLIT SPLIT_V SQUEEZE STRIDED_SLICE TILE
    TRANSPOSE UNPACK
"""
_ELEMENTWISE = """
    Abs Add Ceil Clip Div Equal Floor Greater Less Max MaxPool Min Mul Neg ReduceMax ReduceMin Relu Sign Sqrt Sub
    ABS ADD DIV MAXIMUM MAX_POOL_2D MINIMUM MUL NEG REDUCE_MAX REDUCE_MIN RELU SQRT SUB
"""
_EXACT = frozenset((_MOVING + _ELEMENTWISE).split())


def is_exact(operators: Iterable[str]) -> bool:
    """Tell whether a file of these operators promises bit for bit the same results wherever it runs.

    >>> is_exact(["Concat", "Slice", "MaxPool"]), is_exact(["Concat", "Gemm"])
    (True, False)
    """
    return _EXACT.issuperset(operators)

"""What TFLite's operators can compute in: their integer kernels, the versions these came with, and fixed scales.

Versions are those that TensorFlow's own converter writes (tensorflow/compiler/mlir/lite/tools/versioning/
op_version.cc); scales those of the quantization specification (ai.google.dev/edge/litert/models/quantization_spec).
"""

from __future__ import annotations

from edgernn.quantize.tflite_graph import Scales

__all__ = [
    "ALIKE",
    "BIAS",
    "BLOCKS_VERSION",
    "FIXED",
    "HYBRID_VERSIONS",
    "INTEGER_KERNELS",
    "MOVES",
    "PRODUCTS",
    "SIGNAL",
    "WEIGHTS",
    "version_for",
]

PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Operators with constant weights: int8 with 32-bit accumulators everywhere."""

SIGNAL, WEIGHTS, BIAS = range(3)
"""What the inputs of products are."""

MOVES = (
    "AVERAGE_POOL_2D", "BROADCAST_TO", "CONCATENATION", "EXPAND_DIMS", "GATHER", "MAX_POOL_2D", "PACK", "PAD",
    "RESHAPE", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "SLICE", "SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE",
    "TRANSPOSE", "UNPACK",
)  # fmt: skip
"""Operators that compute nothing new: they go with their neighbours, and what goes in and out has one scale."""

ALIKE = (*MOVES, "MAXIMUM", "MINIMUM", "REDUCE_MAX", "REDUCE_MIN", "SELECT_V2")
"""Operators whose kernels compare or copy levels, so that inputs and outputs must have one scale."""

INTEGER_KERNELS = {
    **dict.fromkeys(
        ("ABS", "ADD", "BATCH_MATMUL", "EXP", "LEAKY_RELU", "LOGISTIC", "MAXIMUM", "MEAN", "MINIMUM", "MUL",
         "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RSQRT", "SELECT_V2", "SUB", "TANH"),
        "int16",
    ),
    **dict.fromkeys(("ELU", "GELU", "HARD_SWISH", "LOG_SOFTMAX", "PRELU", "SOFTMAX", "SQUARED_DIFFERENCE"), "int8"),
}  # fmt: skip
"""The widest integers that each operator (but products and moves) has a kernel for."""

FIXED = {
    ("LOGISTIC", "int8"): Scales(1 / 256, -128), ("LOGISTIC", "int16"): Scales(1 / 32768),
    ("LOG_SOFTMAX", "int8"): Scales(16 / 256, 127),
    ("SOFTMAX", "int8"): Scales(1 / 256, -128), ("SOFTMAX", "int16"): Scales(1 / 32768),
    ("TANH", "int8"): Scales(1 / 128), ("TANH", "int16"): Scales(1 / 32768),
}  # fmt: skip
"""What the integer kernels of these operators give."""

_VERSIONS = {
    "ABS": (2, 3), "ADD": (2, 3), "AVERAGE_POOL_2D": (2, 3), "BATCH_MATMUL": (2, 3), "BROADCAST_TO": (3, 3),
    "CONCATENATION": (2, 3), "CONV_2D": (3, 4), "DEPTHWISE_CONV_2D": (3, 5), "DEQUANTIZE": (2, 3), "EXP": (2, 2),
    "FULLY_CONNECTED": (4, 7), "GATHER": (2, 4), "GELU": (2, 2), "LEAKY_RELU": (1, 2), "LOGISTIC": (2, 3),
    "LOG_SOFTMAX": (2, 2), "MAXIMUM": (2, 4), "MAX_POOL_2D": (2, 3), "MEAN": (2, 3), "MINIMUM": (2, 4), "MUL": (2, 4),
    "PACK": (2, 3), "PAD": (2, 3), "QUANTIZE": (1, 2), "REDUCE_MAX": (2, 3), "REDUCE_MIN": (2, 3), "RELU": (2, 3),
    "RELU6": (2, 3), "RESIZE_NEAREST_NEIGHBOR": (2, 4), "REVERSE_V2": (3, 3), "RSQRT": (2, 3), "SLICE": (2, 4),
    "SOFTMAX": (2, 3), "SPLIT": (2, 4), "SPLIT_V": (2, 2), "SQUARED_DIFFERENCE": (2, 2), "STRIDED_SLICE": (2, 4),
    "SUB": (2, 5), "TANH": (2, 3), "TILE": (3, 3), "TRANSPOSE": (2, 5), "UNPACK": (2, 4),
}  # fmt: skip
"""The versions with kernels for int8 and for int16."""

HYBRID_VERSIONS = {"CONV_2D": (5, 2), "DEPTHWISE_CONV_2D": (6, 4), "FULLY_CONNECTED": (12, 9)}
"""The versions with float in and out and int8 weights: scales by channel, and one scale."""

BLOCKS_VERSION = 14
"""Of FULLY_CONNECTED with a scale for each block. It came without a version of its own; to runtimes that know this one
(for weights of 2 bits, later) it is known, and others refuse the file instead of computing without scales."""


def version_for(name: str, kind: str, written: int = 1) -> int:
    """Return the version of an operator for "int8" or "int16"; `written` is that of the same operator in float."""
    return max(written, _VERSIONS.get(name, (1, 1))[kind == "int16"])

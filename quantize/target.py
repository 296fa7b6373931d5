"""What a TFLite file is for: a processor with floats, or integers alone; and the oldest runtime that must take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgernn.errors import ConversionError, UsageError
from edgernn.quantize.tflite_graph import TFLiteGraph

__all__ = ["CPU", "FLOORS", "TARGETS", "Target", "check_floor", "target_named"]

TARGETS = ("cpu", "integer-only")

# The newest version of each operator that tflite-runtime 2.14.0 takes (and TensorFlow Lite 2.14, which it is built
# from): found by offering it every version of every operator.
_TFLITE_2_14 = """
    ABS 5 ADD 5 AVERAGE_POOL_2D 3 BATCH_MATMUL 4 BROADCAST_TO 3 CAST 5 CONCATENATION 4 CONV_2D 7 COS 1 CUMSUM 1
    DEPTHWISE_CONV_2D 7 DEQUANTIZE 5 DIV 2 ELU 1 EQUAL 4 EXP 2 EXPAND_DIMS 1 FILL 4 FLOOR 1 FLOOR_DIV 3 FLOOR_MOD 2
    FULLY_CONNECTED 10 GATHER 6 GELU 2 GREATER 2 GREATER_EQUAL 3 HARD_SWISH 1 LEAKY_RELU 2 LESS 3 LESS_EQUAL 2 LOG 1
    LOGICAL_AND 1 LOGICAL_NOT 1 LOGICAL_OR 1 LOGISTIC 3 LOG_SOFTMAX 2 MAXIMUM 4 MAX_POOL_2D 3 MEAN 3 MINIMUM 4 MUL 7
    NEG 1 NOT_EQUAL 3 PACK 4 PAD 4 PADV2 4 POW 1 PRELU 1 QUANTIZE 3 READ_VARIABLE 1 REDUCE_MAX 3 REDUCE_MIN 3 RELU 3
    RELU6 3 RESHAPE 1 RESIZE_NEAREST_NEIGHBOR 4 REVERSE_V2 3 RFFT2D 1 RSQRT 2 SELECT 4 SELECT_V2 2 SIGN 2 SIN 1 SLICE 6
    SOFTMAX 3 SPLIT 4 SPLIT_V 2 SQRT 1 SQUARE 1 SQUARED_DIFFERENCE 2 SQUEEZE 2 STRIDED_SLICE 8 SUB 5 SUM 2 TANH 3 TILE 3
    TRANSPOSE 6 TRANSPOSE_CONV 4 UNPACK 4 VAR_HANDLE 1 ASSIGN_VARIABLE 1 CALL_ONCE 1 COMPLEX_ABS 1 REAL 1 IMAG 1
"""


@dataclass(frozen=True)
class Target:
    """Where a file is to run."""

    name: str = "cpu"
    floor: str | None = None
    """The oldest runtime that must take the file, one of `FLOORS`."""

    @property
    def integer_only(self) -> bool:
        """Whether the file may hold no float."""
        return self.name == "integer-only"


CPU = Target()


def _versions(text: str) -> dict[str, int]:
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


FLOORS: Mapping[str, Mapping[str, int]] = {"tflite-runtime-2.14": _versions(_TFLITE_2_14)}
"""Runtime to operator to the newest version that it takes."""


def target_named(name: str, floor: str | None = None) -> Target:
    """Return a target; raise `UsageError` with the known ones otherwise."""
    if name not in TARGETS:
        raise UsageError(f"there is no target '{name}'; choose one of {', '.join(TARGETS)}")
    if floor is not None and floor not in FLOORS:
        raise UsageError(f"there is no runtime floor '{floor}'; choose one of {', '.join(FLOORS)}")
    return Target(name, floor)


def _widens(graph: TFLiteGraph, op: Any) -> bool:
    """Tell whether an operator is one whose version does not say what older runtimes lack."""
    kinds = [graph.dtype(tensor) for tensor in (*op.inputs, *op.outputs)]
    return graph.name(op) == "QUANTIZE" and kinds == ["int8", "int16"]


def check_floor(graph: TFLiteGraph, floor: str) -> None:
    """Raise `ConversionError` naming what the oldest runtime would not take."""
    if any(graph.dtype(tensor) == "int4" for tensor in range(graph.count())):
        raise ConversionError(f"{floor} has no weights of 4 bits; choose --quantize int8, or no --runtime-floor")
    known = FLOORS[floor]
    newer = {
        f"{name} version {version} (it knows {f'up to {known[name]}' if name in known else 'none'})"
        for op in graph.operators
        for name, version in [(graph.name(op), graph.version(op))]
        if version > known.get(name, 0)
    }
    if any(_widens(graph, op) for op in graph.operators):
        newer.add("QUANTIZE from int8 to int16")
    if newer:
        raise ConversionError(
            f"{floor} refuses {', '.join(sorted(newer))}: replace these layers, choose another --quantize, or convert "
            "without --runtime-floor"
        )

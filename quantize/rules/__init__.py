"""The streaming rules, one file a family of operators; importing this fills the table of `streaming`."""

from __future__ import annotations

from edgernn.quantize.rules import (
    convolution,
    lengths,
    pointwise,
    pooling,
    recurrent,
    reduction,
    resampling,
    reshape,
    scan,
    shape,
)

__all__ = [
    "convolution",
    "lengths",
    "pointwise",
    "pooling",
    "recurrent",
    "reduction",
    "resampling",
    "reshape",
    "scan",
    "shape",
]

"""What each Keras layer becomes in the sequence graph; importing this fills the table of `from_keras`."""

from __future__ import annotations

from edgernn.quantize.layers import (
    activation,
    attention,
    bidirectional,
    convolution,
    cropping,
    dense,
    merging,
    normalization,
    pooling,
    recurrent,
)

__all__ = [
    "activation",
    "attention",
    "bidirectional",
    "convolution",
    "cropping",
    "dense",
    "merging",
    "normalization",
    "pooling",
    "recurrent",
]

"""What each Keras layer becomes in the sequence graph; importing this fills the table of `from_keras`."""

from __future__ import annotations

from edgernn.quantize.layers import (
    activation,
    arithmetic,
    attention,
    bidirectional,
    convolution,
    cropping,
    dense,
    embedding,
    normalization,
    pooling,
    recurrent,
    reduction,
    resampling,
    shape,
    wrapper,
)

__all__ = [
    "activation",
    "arithmetic",
    "attention",
    "bidirectional",
    "convolution",
    "cropping",
    "dense",
    "embedding",
    "normalization",
    "pooling",
    "recurrent",
    "reduction",
    "resampling",
    "shape",
    "wrapper",
]

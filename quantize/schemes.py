"""Quantization choices as frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from edgernn.errors import UsageError

__all__ = ["SCHEMES", "Scheme", "Tolerance", "finer", "scheme_named"]


@dataclass(frozen=True)
class Tolerance:
    """How far an artifact may be from its source, per output."""

    max_error: float
    """Largest absolute error, as a share of the source output's standard deviation where that is above one."""
    min_snr_db: float
    """Least power of what varies in the source output over power of the error, decibels."""
    max_accuracy_loss: float = 0.003
    """By how much the accuracy on the dev set may be below the source's (one clip always may be lost)."""


@dataclass(frozen=True)
class Scheme:
    """What is stored and computed in how many bits."""

    name: str
    about: str
    tolerance: Tolerance
    calibrated: bool = False
    """Whether it needs example data to fix the ranges."""
    formats: tuple[str, ...] = ("tflite", "onnx")
    """Files that may be written in it."""
    taken_apart: bool = False
    """Whether every recurrent operator is taken apart, since no runtime has it in this scheme."""
    weight_bits: int = 8


# float32: kernels may sum in another order, so the last digits differ. The others bound what a sound conversion loses
# (measured: float16 60 dB and more, dynamic-int8 and int8 31, int4 14 and more); a broken one is at 0 dB.
SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("float32", "as trained", Tolerance(1e-4, 80.0), weight_bits=32),
        Scheme("float16", "weights in 16 bits, computed in float32", Tolerance(0.1, 40.0), weight_bits=16),
        Scheme("weights-int8", "weights in 8 bits, computed in float32", Tolerance(0.5, 25.0), formats=("onnx",)),
        Scheme("dynamic-int8", "weights in 8 bits, activations quantized as they come", Tolerance(1.0, 20.0)),
        Scheme(
            "int8",
            "products in 8 bits, calibrated; cells in float32 (int16 for --target integer-only)",
            Tolerance(2.0, 10.0, max_accuracy_loss=0.01),
            calibrated=True,
            taken_apart=True,
        ),
        Scheme(
            "int4",
            "weights in 4 bits, a scale for each 16 or 32 inputs (TFLite: each 32, or for each output)",
            Tolerance(3.0, 8.0, 0.02),
            taken_apart=True,
            weight_bits=4,
        ),
    )
}


def scheme_named(name: str) -> Scheme:
    """Return a scheme; raise `UsageError` with the known ones otherwise."""
    try:
        return SCHEMES[name]
    except KeyError:
        raise UsageError(f"there is no quantization '{name}'; choose one of {', '.join(SCHEMES)}") from None


def finer(scheme: Scheme, kind: str) -> list[str]:
    """Return the schemes that keep weights in more bits in files of a format, the smallest files first.

    >>> finer(SCHEMES["dynamic-int8"], "onnx")
    ['float16', 'float32']
    """
    more = [item for item in SCHEMES.values() if item.weight_bits > scheme.weight_bits and kind in item.formats]
    return [item.name for item in sorted(more, key=lambda item: item.weight_bits)]

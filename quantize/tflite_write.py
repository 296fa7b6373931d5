"""Rewriting a float TFLite file: operators in the kinds of numbers decided for them, and conversions between.

Every conversion is one QUANTIZE or DEQUANTIZE that is put here, before its first reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.quantize.tflite_graph import Scales, TFLiteGraph
from edgernn.quantize.tflite_kernels import BIAS, BLOCKS_VERSION, FIXED, HYBRID_VERSIONS, SIGNAL, WEIGHTS, version_for
from edgernn.quantize.tflite_kinds import FLOAT, HYBRID, INT8, INT16, LEAST_WEIGHTS, Kinds, is_product
from edgernn.quantize.tflite_scales import Typed

__all__ = ["Weights", "block_scales", "least_squares_scales", "nibbles", "rewrite"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Weights:
    """How the weights of products are stored: symmetric, with a scale for each output channel."""

    hybrid_per_channel: bool = True
    """Whether those of hybrid products have a scale each, too, or one for all."""
    bits: int = 8
    """Of the weights of hybrid FULLY_CONNECTED; all others have 8."""


CHANNELS = {"DEPTHWISE_CONV_2D": 3}
"""Which axis of the weights counts the output channels; of the others it is the first."""
SMALLEST = 1e-12  # of the peaks of channels, which may be all zeros
BLOCK = 32  # of inputs with one scale: XNNPACK takes multiples of it
SHARES = np.append(np.linspace(0.5, 1.0, 26), 7 / 8).astype(np.float32)  # of the peak at level 7; or it is at -8
LEAST_HALF = 2.0**-14  # the smallest float16 with all its digits
LARGEST_BIAS = 2**30  # levels of a 32-bit bias, with room for the sum that it is added to


def rewrite(
    graph: TFLiteGraph, kinds: Kinds, scales: Mapping[Typed, Scales], outputs: Mapping[str, str], weights: Weights
) -> None:
    """Rewrite `graph` in place; `outputs` says what kind each named output is to be, states included."""
    writer = _Writer(graph, kinds, scales, weights)
    for op, kind in zip(list(graph.operators), kinds.operators, strict=True):
        writer.convert(op, kind)
    for name, tensor in graph.ends("output").items():
        if name in outputs:
            graph.set_end("output", name, writer.as_kind(tensor, outputs[name]))
    graph.operators[:] = writer.operators


class _Writer:
    def __init__(self, graph: TFLiteGraph, kinds: Kinds, scales: Mapping[Typed, Scales], form: Weights) -> None:
        self.graph, self.kinds, self.scales, self.form = graph, kinds, scales, form
        self.operators: list[Any] = []
        self.made: dict[Typed, int] = {}
        self.stored: dict[tuple[int, str, bytes], int] = {}
        self.real = {tensor for tensor in range(graph.count()) if graph.dtype(tensor) == FLOAT}
        for tensor in self.real.intersection(graph.ends("input").values()):
            self._born(tensor, kinds.tensors[tensor])

    def convert(self, op: Any, kind: str) -> None:
        """Append an operator, computing in `kind`, behind the conversions that its inputs need."""
        if kind == FLOAT and self._looks_up(op):
            self._lookup(op)
            return
        if kind == INT16 and self.graph.name(op) == "RSQRT":
            self._inverse_root(op)
            return
        if kind == HYBRID:
            self._hybrid_product(op)
            kind = FLOAT
        elif kind == INT8 and is_product(self.graph, op):
            self._static_product(op)
        else:
            op.inputs = [self.as_kind(tensor, kind) for tensor in op.inputs]
        if kind != FLOAT:
            self.graph.set_version(op, version_for(self.graph.name(op), kind, self.graph.version(op)))
            if hasattr(op.builtinOptions, "potScaleInt16"):
                op.builtinOptions.potScaleInt16 = False  # scales are any numbers, not powers of two
        self.operators.append(op)
        op.outputs = [self._output(op, tensor, kind) if tensor in self.real else tensor for tensor in op.outputs]

    def _output(self, op: Any, tensor: int, kind: str) -> int:
        """Return the tensor that an operator writes: another one where its kernel's scale is not what is wanted."""
        self._born(tensor, kind)
        fixed = FIXED.get((self.graph.name(op), kind))
        if fixed is None or fixed == self.scales[tensor, kind]:
            return tensor
        between = self.graph.add(tensor, kind, fixed, suffix=";raw")
        self.operators.append(self.graph.operator("QUANTIZE", version_for("QUANTIZE", kind), [between], [tensor]))
        return between

    def _born(self, tensor: int, kind: str) -> None:
        self.made[tensor, kind] = tensor
        if kind != FLOAT:
            self.graph.retype(tensor, kind, self.scales[tensor, kind])

    def as_kind(self, tensor: int, kind: str) -> int:
        """Return a signal in a kind of numbers, converted at most once; what is no real number is left alone."""
        if (tensor, kind) in self.made or tensor not in self.real:
            return self.made.get((tensor, kind), tensor)
        constant = self.graph.constant(tensor)
        if constant is not None:
            made = tensor if kind == FLOAT else self._constant(tensor, constant, kind)
        else:
            made = self.graph.add(tensor, kind, None if kind == FLOAT else self.scales[tensor, kind])
            name, integers = ("DEQUANTIZE", self.kinds.tensors[tensor]) if kind == FLOAT else ("QUANTIZE", kind)
            self.operators.append(self.graph.operator(name, version_for(name, integers), [tensor], [made]))
        self.made[tensor, kind] = made
        return made

    def _constant(self, tensor: int, values: NDArray[Any], kind: str) -> int:
        scales = self.scales[tensor, kind]
        limits = np.iinfo(kind)
        levels = np.rint(values.astype(np.float64) / scales.scale) + scales.zero_point  # "no limit" is 3.4e38
        return self.graph.add(tensor, kind, scales, np.clip(levels, limits.min, limits.max).astype(kind).tobytes())

    def _hybrid_product(self, op: Any) -> None:
        name = self.graph.name(op)
        op.inputs[SIGNAL] = self.as_kind(op.inputs[SIGNAL], FLOAT)
        values, axis = self._parameters(op)
        per_channel = self.form.hybrid_per_channel or name != "FULLY_CONNECTED"
        if name == "FULLY_CONNECTED":
            op.builtinOptions.asymmetricQuantizeInputs = True
        version = HYBRID_VERSIONS[name][not per_channel]
        if name == "FULLY_CONNECTED" and self.form.bits == 4:
            scales = block_scales(values) or least_squares_scales(values, axis)
            version = BLOCKS_VERSION if scales.block else version
            op.inputs[WEIGHTS] = self._stored(
                op.inputs[WEIGHTS], "int4", scales, nibbles(_levels(values, scales, 7, -8))
            )
        else:
            most = _channel_peaks(values, axis) / 127
            scales = Scales(most if per_channel else most.max(keepdims=True), axis=axis)
            op.inputs[WEIGHTS] = self._stored(op.inputs[WEIGHTS], INT8, scales, _levels(values, scales, 127).tobytes())
        self.graph.set_version(op, version)

    def _static_product(self, op: Any) -> None:
        source, (values, axis) = op.inputs[SIGNAL], self._parameters(op)
        op.inputs[SIGNAL] = self.as_kind(source, INT8)
        input_scale = float(self.scales[source, INT8].scale)
        added = self.graph.constant(op.inputs[BIAS]) if len(op.inputs) > BIAS else None
        most = _channel_peaks(values, axis) / 127
        if added is not None:
            most = np.maximum(most, np.abs(added) / (input_scale * LARGEST_BIAS)).astype(np.float32)
            total = Scales(most * np.float32(input_scale))
            levels = np.rint(added.astype(np.float64) / total.scale).astype(np.int32)
            op.inputs[BIAS] = self._stored(op.inputs[BIAS], "int32", total, levels.tobytes())
        scales = Scales(most, axis=axis)
        op.inputs[WEIGHTS] = self._stored(op.inputs[WEIGHTS], INT8, scales, _levels(values, scales, 127).tobytes())

    def _stored(self, tensor: int, dtype: str, scales: Scales, data: bytes) -> int:
        """Return a constant in levels, added once: a cell that takes several frames a step reads it for each."""
        key = (tensor, dtype, np.asarray(scales.scale, np.float32).tobytes())
        if key not in self.stored:
            self.stored[key] = self.graph.add(tensor, dtype, scales, data)
        return self.stored[key]

    def _inverse_root(self, op: Any) -> None:
        """Write the inverse root of x as 1/√max(x, t) + (1/√min(x, t) - 1/√t), of which one half is nothing.

        LiteRT's kernel of 16 bits joins the points of a table by straight lines, 512 for all positive levels, which is
        wrong in the first few. So what is below t is taken in a scale that ends there, where x has 64 levels for one.
        """
        (x,), (result,) = op.inputs, op.outputs
        scale, x = self.scales[x, INT16].scale, self.as_kind(x, INT16)
        self._born(result, INT16)
        form, turn = self.scales[result, INT16], 512
        large = self._int16("MAXIMUM", [x, self._level(x, turn, Scales(scale))], x, Scales(scale))
        small = self._int16("QUANTIZE", [x], x, Scales(scale / 64))
        more = self._int16("RSQRT", [small], result, form)
        least = min(round(1 / (turn * scale) ** 0.5 / form.scale), 32767)
        more = self._int16("SUB", [more, self._level(result, least, form)], result, form)
        self._int16("ADD", [self._int16("RSQRT", [large], result, form), more], result, form, result)

    def _level(self, like: int, level: int, scales: Scales) -> int:
        return self.graph.add(like, INT16, scales, np.full(self.graph.shape(like), level, INT16).tobytes())

    def _int16(self, name: str, inputs: list[int], like: int, scales: Scales, result: int | None = None) -> int:
        """Append an operator; return its output, of the shape of `like`."""
        made = self.graph.add(like, INT16, scales, suffix=f";{name}") if result is None else result
        self.operators.append(self.graph.operator(name, version_for(name, INT16), inputs, [made]))
        return made

    def _looks_up(self, op: Any) -> bool:
        table = self.graph.constant(op.inputs[0]) if self.graph.name(op) == "GATHER" else None
        return table is not None and op.inputs[0] in self.real and table.size >= LEAST_WEIGHTS

    def _lookup(self, op: Any) -> None:
        """Store the table of an embedding in 8 bits; what is taken out of it becomes float."""
        table, (result,) = op.inputs[0], op.outputs
        values = self.graph.constant(table)
        assert values is not None
        scales = Scales(max(float(np.abs(values).max()), SMALLEST) / 127)
        taken = self.graph.add(result, INT8, scales, suffix=";levels")
        op.inputs[0] = self._stored(table, INT8, scales, _levels(values, scales, 127).tobytes())
        op.outputs = [taken]
        self.graph.set_version(op, version_for("GATHER", INT8, self.graph.version(op)))
        dequantize = self.graph.operator("DEQUANTIZE", version_for("DEQUANTIZE", INT8), [taken], [result])
        self.operators += [op, dequantize]
        self._born(result, FLOAT)

    def _parameters(self, op: Any) -> tuple[Floats, int]:
        """Return the weights of a product, and which of their axes counts output channels."""
        values = self.graph.constant(op.inputs[WEIGHTS])
        assert values is not None
        return values, CHANNELS.get(self.graph.name(op), 0)


def _channel_peaks(weights: Floats, axis: int) -> Floats:
    """Return the largest magnitude in each channel."""
    others = tuple(other for other in range(weights.ndim) if other != axis)
    peaks: Floats = np.maximum(np.abs(weights).max(axis=others), SMALLEST).astype(np.float32)
    return peaks


def least_squares_scales(weights: Floats, axis: int) -> Scales:
    """Return for each channel the scale with the least squared error, of some that cut off up to half of the peak.

    With few levels, -8 to 7, large weights are better cut than all others rounded coarsely.
    """
    peaks = _channel_peaks(weights, axis)
    others = tuple(other for other in range(weights.ndim) if other != axis)
    best, least = peaks / 7, np.full(peaks.shape, np.inf)
    for share in SHARES:
        scales = Scales(peaks * share / 7, axis=axis)
        error = ((_levels(weights, scales, 7, -8) * _along(scales, weights.ndim) - weights) ** 2).sum(axis=others)
        best, least = np.where(error < least, scales.scale, best), np.minimum(error, least)
    return Scales(best.astype(np.float32), axis=axis)


def block_scales(weights: Floats) -> Scales | None:
    """Return for each 32 inputs of each output the scale with the least squared error, for weights of 4 bits.

    In bfloat16, for that is what XNNPACK computes with; None where there are no whole blocks, or weights so small that
    the float16 of the file could not hold that.
    """
    if weights.shape[-1] % BLOCK:
        return None
    best = np.asarray(least_squares_scales(weights.reshape(-1, BLOCK), 0).scale)
    scale = ((best.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)
    return Scales(scale.reshape(len(weights), -1), block=BLOCK) if scale.min() >= LEAST_HALF else None


def nibbles(levels: NDArray[np.int8]) -> bytes:
    """Pack levels of -8 to 7 in two's complement, two in a byte, the first in the low half."""
    flat = levels.reshape(-1).astype(np.uint8) & 15
    flat = np.append(flat, np.zeros(len(flat) % 2, np.uint8))
    return (flat[::2] | flat[1::2] << 4).tobytes()


def _levels(weights: Floats, scales: Scales, most: int, least: int | None = None) -> NDArray[np.int8]:
    rounded = np.rint(weights / _along(scales, weights.ndim))
    levels: NDArray[np.int8] = np.clip(rounded, -most if least is None else least, most).astype(np.int8)
    return levels


def _along(scales: Scales, rank: int) -> Floats:
    """Return the scales in the shape that spreads them over the weights."""
    if scales.block:
        return np.repeat(scales.scale, scales.block, axis=1)
    shape = [1] * rank
    shape[scales.axis] = -1
    return np.reshape(np.asarray(scales.scale, np.float32), shape)

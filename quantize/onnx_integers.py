"""Products and LSTMs that ONNX Runtime computes in integers, by operators of its own (domain com.microsoft).

It would make some of them itself out of ONNX' own operators, but leaves out many, and every GRU and RNN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.graph import MICROSOFT, Builder, Mapped, array_of, plain_attributes, rebuild, shape_of
from edgernn.quantize.products import Floats, bias_after, is_large, matrix_of
from edgernn.spec import QuantParams

__all__ = ["integer_lstm", "integer_products"]

# For each column that has a scale of its own, the kernels take 3 ns a run to multiply it with that of the input. A Mul
# behind the product takes 0.3 µs whatever their number (ONNX Runtime 1.32, x86-64).
MOST_SCALES = 128
UNSIGNED_ZERO = 128  # uint8 levels count from 0: with int8 weights, the product that x86 and ARM have instructions for


def integer_products(
    model: ir.Model, params: Mapping[str, QuantParams] | None = None, by_row: bool = False
) -> ir.Model:
    """Replace products with constant matrices by nodes that compute in int8 and give float.

    Inputs named in `params` are quantized with that (int8 levels); all others as they come, by their least and
    greatest element or, with `by_row`, each of several rows by its own: then no stream of a batch sees another one,
    and no frame of a step another. Matrices are int8 with a scale for each column, biases that are added next go into
    the node.
    """
    consumed: Mapped = {}
    quantized: dict[ir.Value, ir.Value] = {}
    rows: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def visit(node: ir.Node, inputs: Sequence[ir.Value | None], graph: Builder) -> Sequence[ir.Value] | None:
        if node.outputs[0] in consumed:
            return [consumed[node.outputs[0]]]
        matrix, x = matrix_of(node), inputs[0] if inputs else None
        if matrix is None or x is None or node.inputs[0] is None:
            return None
        bias = bias_after(node)
        quant = (params or {}).get(node.inputs[0].name or "")
        if quant and x not in quantized:
            quantized[x] = graph.op("QuantizeLinear", x, *_constants(quant, graph))
        added = None if bias is None else bias[1]
        if quant is None and by_row and math.prod(shape_of(node.inputs[0])[:-1]) > 1:
            if x not in rows:
                rows[x] = _rows(x, graph)
            result = _product_by_row(*rows[x], matrix, added, graph)
        else:
            result = _product(quantized[x] if quant else x, quant, matrix, added, graph)
        if bias is not None:
            consumed[bias[0]] = result
        return [result]

    return rebuild(model, visit)


def _product(x: ir.Value, quant: QuantParams | None, matrix: Floats, bias: Floats | None, graph: Builder) -> ir.Value:
    levels, scales = _columns(matrix)
    late = len(scales) > MOST_SCALES
    if late and bias is not None:
        bias = bias / scales
    kernel = graph.constant(levels, "kernel_int8")
    scale = graph.constant(np.ones((), np.float32) if late else scales, "scales")
    zero = graph.constant(np.zeros((), np.int8), "zero", shared=False)  # rewritten with its kernel on some machines
    added = [] if bias is None else [graph.constant(bias, "bias")]
    if quant is None:
        result = graph.op(f"{MICROSOFT}::DynamicQuantizeMatMul", x, kernel, scale, zero, *added)
    else:
        x_scale, x_zero = _constants(quant, graph)
        result = graph.op(f"{MICROSOFT}::MatMulIntegerToFloat", x, kernel, x_scale, scale, x_zero, zero, *added)
    return graph.op("Mul", result, graph.constant(scales, "scales")) if late else result


WHOLE_ROW = QuantParams(1 / 127, 0)


def _rows(x: ir.Value, graph: Builder) -> tuple[ir.Value, ir.Value]:
    """Quantize each row by its largest element; return the levels, and the largest elements `(..., 1)`."""
    largest = graph.op("ReduceMax", graph.op("Abs", x), axes=[-1], keepdims=1)
    largest = graph.op("Max", largest, graph.constant(1e-12, "least"))
    return graph.op("QuantizeLinear", graph.op("Div", x, largest), *_constants(WHOLE_ROW, graph)), largest


def _product_by_row(
    levels: ir.Value, largest: ir.Value, matrix: Floats, bias: Floats | None, graph: Builder
) -> ir.Value:
    result = graph.op("Mul", _product(levels, WHOLE_ROW, matrix, None, graph), largest)
    return result if bias is None else graph.op("Add", result, graph.constant(bias, "bias"))


def _constants(quant: QuantParams, graph: Builder) -> tuple[ir.Value, ir.Value]:
    zero = np.array(quant.zero_point + UNSIGNED_ZERO, np.uint8)
    return graph.constant(quant.scale, "scale"), graph.constant(zero, "zero")


def integer_lstm(model: ir.Model) -> ir.Model:
    """Replace LSTM by DynamicQuantizeLSTM: int8 weights with a scale for each row, inputs quantized as they come."""

    def visit(node: ir.Node, inputs: Sequence[ir.Value | None], graph: Builder) -> Sequence[ir.Value] | None:
        weights = node.inputs[1:3]
        if node.op_type != "LSTM" or not all(value is not None and value.is_initializer() for value in weights):
            return None
        arrays = [array_of(value) for value in weights]
        if not all(map(is_large, arrays)):
            return None
        entered, quantization = [*inputs, *[None] * (8 - len(inputs))], []
        for place, array in enumerate(arrays, 1):
            pairs = [_columns(matrix.T) for matrix in array]  # of each direction
            levels, scales = (np.stack(parts) for parts in zip(*pairs, strict=True))
            entered[place] = graph.constant(levels, "kernel_int8")
            quantization += [graph.constant(scales, "scales"), graph.constant(np.zeros(scales.shape, np.int8), "zeros")]
        op_type = f"{MICROSOFT}::DynamicQuantizeLSTM"
        return graph.ops(op_type, [*entered, *quantization], len(node.outputs), plain_attributes(node))

    return rebuild(model, visit)


def _columns(matrix: Floats) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize each column symmetrically to -127..127."""
    scales = np.maximum(np.abs(matrix).max(axis=0), 1e-12).astype(np.float32) / np.float32(127)
    return np.clip(np.rint(matrix / scales), -127, 127).astype(np.int8), scales

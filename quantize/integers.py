"""Quantization written into the step graph: QuantizeLinear/DequantizeLinear pairs, and integer products."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.graph import MICROSOFT, Builder, Mapped, array_of, rebuild
from edgernn.quantize.ranges import state_values
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import QuantParams

__all__ = ["half_weights", "integer_products", "quantize_values"]

# Between a float state and what reads it in integers. Without an operation in between, or with one that it folds away,
# the TFLite converter computes the state itself in integers.
NEARLY_ONE = np.nextafter(np.float32(1), np.float32(2))
LEAST_WEIGHTS = 256  # smaller constants are not worth an extra node


def quantize_values(step: StepGraph, params: Mapping[ir.Value, QuantParams], dtype: str = "int8") -> StepGraph:
    """Put a QuantizeLinear and a DequantizeLinear behind every value that has parameters.

    `dtype` is "int8", or "uint8" (the same levels, counted from 0).
    """
    by_name = {value.name: item for value, item in params.items()}
    late = _float_state_outputs(step, by_name) & by_name.keys()
    read_side = late | {value.name for value in step.model.graph.inputs} & by_name.keys()

    def pair(value: ir.Value, item: QuantParams, graph: Builder) -> ir.Value:
        zero = np.array(item.zero_point + (128 if dtype == "uint8" else 0), dtype)
        constants = (graph.constant(item.scale, "scale"), graph.constant(zero, "zero"))
        return graph.op("DequantizeLinear", graph.op("QuantizeLinear", value, *constants), *constants)

    def visit(node: ir.Node, inputs: Sequence[ir.Value | None], graph: Builder) -> Sequence[ir.Value] | None:
        if node.op_type == "Identity":
            return None
        entered = list(inputs)
        for index, (old, new) in enumerate(zip(node.inputs, inputs, strict=True)):
            if old is not None and new is not None and old.name in read_side:
                if old.name in late:
                    new = graph.op("Mul", new, graph.constant(NEARLY_ONE, "nearly_one"))
                entered[index] = pair(new, by_name[old.name], graph)
        outputs = list(graph.copy(node, entered))
        for index, old in enumerate(node.outputs):
            if old.name in by_name and old.name not in late:
                outputs[index] = pair(outputs[index], by_name[old.name], graph)
        return outputs

    return replace(step, model=rebuild(step.model, visit))


def _float_state_outputs(step: StepGraph, quantized: Collection[str | None]) -> set[str | None]:
    """Return the outputs of states that stay in float: only what else reads them sees the quantized value."""
    return {leaving.name for entering, leaving in state_values(step) if entering.name not in quantized}


def integer_products(model: ir.Model) -> ir.Model:
    """Replace products with constant matrices by one node that computes in int8 and gives float.

    DynamicQuantizeMatMul quantizes its input as it comes; MatMulIntegerToFloat takes an input that a QuantizeLinear
    has quantized already. Matrices are int8 with a scale for each column; a bias that is added next goes into the node.
    (Both are operators of ONNX Runtime, domain com.microsoft; it would make them itself out of the patterns of ONNX'
    own operators, but leaves out many.)
    """
    consumed: Mapped = {}

    def visit(node: ir.Node, inputs: Sequence[ir.Value | None], graph: Builder) -> Sequence[ir.Value] | None:
        if node.outputs[0] in consumed:
            return [consumed[node.outputs[0]]]
        matrix = _matrix(node)
        if matrix is None:
            return None
        bias = _bias_after(node)
        result = _integer_product(inputs[0], matrix, None if bias is None else bias[1], graph)
        if bias is not None:
            consumed[bias[0]] = result
        return [result]

    return rebuild(model, visit)


def _integer_product(x: ir.Value | None, matrix: NDArray[Any], bias: NDArray[Any] | None, graph: Builder) -> ir.Value:
    levels, column_scales = _columns(matrix)
    kernel, scales = graph.constant(levels, "kernel_int8"), graph.constant(column_scales, "scales")
    zeros = graph.constant(np.zeros(len(column_scales), np.int8), "zeros")
    added = [] if bias is None else [graph.constant(bias, "bias")]
    reader = None if x is None else x.producer()
    if reader is None or reader.op_type != "DequantizeLinear":
        return graph.op(f"{MICROSOFT}::DynamicQuantizeMatMul", x, kernel, scales, zeros, *added)
    quantized, scale, zero = reader.inputs
    return graph.op(f"{MICROSOFT}::MatMulIntegerToFloat", quantized, kernel, scale, scales, zero, zeros, *added)


def half_weights(model: ir.Model) -> ir.Model:
    """Store constants as float16 behind a Cast, which ONNX Runtime computes once, when it loads the file."""
    cast: Mapped = {}

    def visit(node: ir.Node, inputs: Sequence[ir.Value | None], graph: Builder) -> Sequence[ir.Value] | None:
        halved = []
        for old, new in zip(node.inputs, inputs, strict=True):
            if old is None or not old.is_initializer() or not _is_large_float(array_of(old)):
                halved.append(new)
                continue
            if old not in cast:
                half = graph.constant(array_of(old).astype(np.float16), "half")
                cast[old] = graph.op("Cast", half, to=int(ir.DataType.FLOAT))
            halved.append(cast[old])
        return graph.copy(node, halved)

    return rebuild(model, visit)


def _is_large_float(array: NDArray[Any]) -> bool:
    return array.dtype == np.float32 and array.size >= LEAST_WEIGHTS


def _matrix(node: ir.Node) -> NDArray[Any] | None:
    if node.op_type != "MatMul" or node.inputs[1] is None or not node.inputs[1].is_initializer():
        return None
    matrix = array_of(node.inputs[1])
    return matrix if _is_large_float(matrix) and matrix.ndim == 2 else None


def _columns(matrix: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize each column symmetrically to -127..127."""
    scales = np.maximum(np.abs(matrix).max(axis=0), 1e-12).astype(np.float32) / np.float32(127)
    return np.clip(np.rint(matrix / scales), -127, 127).astype(np.int8), scales


def _bias_after(node: ir.Node) -> tuple[ir.Value, NDArray[Any]] | None:
    uses = node.outputs[0].consumers()
    if len(uses) != 1 or uses[0].op_type != "Add" or node.outputs[0].is_graph_output():
        return None
    other = next((v for v in uses[0].inputs if v is not node.outputs[0]), None)
    if other is None or not other.is_initializer() or array_of(other).ndim != 1:
        return None
    return uses[0].outputs[0], array_of(other)

"""Quantization written into the step graph: QuantizeLinear/DequantizeLinear pairs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgernn.quantize.graph import Builder, rebuild
from edgernn.quantize.ranges import state_values
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import QuantParams

__all__ = ["quantize_values"]

# Between a float state and what reads it in integers. Without an operation in between, or with one that it folds away,
# the TFLite converter computes the state itself in integers.
NEARLY_ONE = np.nextafter(np.float32(1), np.float32(2))


def quantize_values(step: StepGraph, params: Mapping[ir.Value, QuantParams]) -> StepGraph:
    """Put a QuantizeLinear and a DequantizeLinear, in int8, behind every value that has parameters."""
    by_name = {value.name: item for value, item in params.items()}
    late = _float_state_outputs(step, by_name) & by_name.keys()
    read_side = late | {value.name for value in step.model.graph.inputs} & by_name.keys()

    def pair(value: ir.Value, item: QuantParams, graph: Builder) -> ir.Value:
        constants = (graph.constant(item.scale, "scale"), graph.constant(np.array(item.zero_point, np.int8), "zero"))
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

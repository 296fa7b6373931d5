"""The step graph to an ONNX file for ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnx_ir as ir

from edgernn.quantize.calibrate import Ranges
from edgernn.quantize.integers import half_weights, integer_products, quantize_values
from edgernn.quantize.ranges import choose, products_and_states, state_values
from edgernn.quantize.schemes import Scheme
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import QuantParams, StreamSpec

__all__ = ["to_onnx"]

UNSIGNED_ZERO = 128  # uint8 levels count from 0: with int8 weights, the product that x86 and ARM have instructions for


def to_onnx(
    kept: StepGraph, taken_apart: StepGraph, spec: StreamSpec, scheme: Scheme, ranges: Ranges | None
) -> tuple[bytes, StreamSpec]:
    """Return the file's bytes and the spec with the dtypes that its tensors have.

    Float schemes keep the recurrent operators (`kept`); integer ones need the cells taken apart, because ONNX Runtime
    has an integer LSTM and no integer GRU or RNN. `ranges` is needed for int8.
    """
    if scheme.name == "int8":
        assert ranges is not None
        return _static(taken_apart, spec, ranges)
    model = {
        "float32": lambda: kept.model,
        "float16": lambda: half_weights(kept.model),
        "dynamic-int8": lambda: integer_products(taken_apart.model),
    }[scheme.name]()
    return _serialize(ir.to_proto(model)), spec


def _static(step: StepGraph, spec: StreamSpec, ranges: Ranges) -> tuple[bytes, StreamSpec]:
    params = choose(step, ranges, products_and_states(step))
    quantized = quantize_values(step, params, "uint8")
    proto = ir.to_proto(integer_products(quantized.model))
    by_name = {entering.name: params.get(entering) for entering, _ in state_values(step)}
    states = []
    for state in spec.states:
        quant = by_name[state.input]
        if quant is None:
            states.append(state)
            continue
        _open_boundary(proto.graph, state.input, state.output)
        quant = QuantParams(quant.scale, quant.zero_point + UNSIGNED_ZERO)
        states.append(replace(state, dtype="uint8", quant=quant))
    return _serialize(proto), replace(spec, states=tuple(states))


def _open_boundary(graph: onnx.GraphProto, entering: str, leaving: str) -> None:
    """Let a state come in and go out as integers: without the first half of the pair there, the second here."""
    producers = {name: node for node in graph.node for name in node.output}
    for node in [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == entering]:
        for reader in graph.node:
            reader.input[:] = [entering if name == node.output[0] else name for name in reader.input]
        graph.node.remove(node)
    last = producers[leaving]
    while last.op_type == "Identity":
        last = producers[last.input[0]]
    quantized = last.input[0]
    output = next(item for item in graph.output if item.name == leaving)
    producer = producers[leaving]
    if producer is last:  # other readers keep the real value, under another name
        last.output[0] = f"{leaving}_real"
        for reader in graph.node:
            reader.input[:] = [last.output[0] if name == leaving else name for name in reader.input]
        producer = graph.node.add(op_type="Identity", output=[leaving], name=f"{leaving}_copy")
    producer.input[0:] = [quantized]
    for item in (output, next(item for item in graph.input if item.name == entering)):
        item.type.tensor_type.elem_type = onnx.TensorProto.UINT8


def _serialize(proto: onnx.ModelProto) -> bytes:
    del proto.graph.value_info[:]  # stale where a pass changed dtypes; ONNX Runtime infers its own
    onnx.checker.check_model(proto.SerializeToString())
    content: bytes = proto.SerializeToString()
    return content

"""States of a TFLite file as integers, while frames stay float32.

The converter gives all inputs and outputs one type. Float frames cost a device nothing (one QUANTIZE and one DEQUANTIZE
beside the other kernels), and save it quantizing in Python; states must be integers, to be carried bit for bit.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

__all__ = ["with_integer_states"]


def with_integer_states(content: bytes, inputs: Collection[str], outputs: Collection[str]) -> bytes:
    """Let the named inputs and outputs (of the file's one signature) skip their QUANTIZE and DEQUANTIZE.

    One that is not quantized stays float.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    for entry in signature.inputs:
        if entry.name.decode() in inputs:
            _skip_quantize(model, graph, entry)
    for entry in signature.outputs:
        if entry.name.decode() in outputs:
            _skip_dequantize(model, graph, entry)
    read = {index for op in graph.operators for index in op.inputs} | {entry.tensorIndex for entry in signature.outputs}
    graph.operators = [op for op in graph.operators if any(index in read for index in op.outputs)]
    graph.outputs = list(dict.fromkeys(entry.tensorIndex for entry in signature.outputs))
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _skip_quantize(model: Any, graph: Any, entry: Any) -> None:
    readers = [op for op in graph.operators if entry.tensorIndex in op.inputs]
    if not readers or any(_code(model, op) != schema.BuiltinOperator.QUANTIZE for op in readers):
        return
    first, *others = readers
    integer = first.outputs[0]
    for other in others:  # each reader has a QUANTIZE of its own, all alike
        _redirect(graph, other.outputs[0], integer)
    graph.operators = [op for op in graph.operators if not any(op is reader for reader in readers)]
    graph.inputs = [integer if index == entry.tensorIndex else index for index in graph.inputs]
    entry.tensorIndex = integer


def _skip_dequantize(model: Any, graph: Any, entry: Any) -> None:
    writer = next((op for op in graph.operators if entry.tensorIndex in op.outputs), None)
    if writer is None or _code(model, writer) != schema.BuiltinOperator.DEQUANTIZE:
        return
    entry.tensorIndex = writer.inputs[0]


def _redirect(graph: Any, old: int, new: int) -> None:
    for op in graph.operators:
        op.inputs = [new if index == old else index for index in op.inputs]


def _code(model: Any, op: Any) -> int:
    code = model.operatorCodes[op.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))

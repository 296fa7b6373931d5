"""Small TFLite files, built operator by operator."""

from __future__ import annotations

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

__all__ = ["one_operator"]


def one_operator(name: str, version: int) -> bytes:
    """Return a file that asks for one version of an operator, and uses it on nothing: enough for a resolver."""
    model, code, graph, signature = schema.ModelT(), schema.OperatorCodeT(), schema.SubGraphT(), schema.SignatureDefT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [], []
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [], [], [], [operator]
    signature.signatureKey, signature.inputs, signature.outputs = b"serving_default", [], []
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers, model.signatureDefs = [schema.BufferT()], [signature]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())

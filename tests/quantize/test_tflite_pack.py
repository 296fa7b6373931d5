"""What a file says once: the same step for whoever reads it, in fewer bytes."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgernn.quantize.tflite_graph import Scales, TFLiteGraph
from edgernn.quantize.tflite_pack import packed
from tests.quantize.tflite_files import one_operator

COUNT = 60


def chain() -> Any:
    """Return a file of many additions, each of the result before and the same constant, as a converter writes it."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(one_operator("ADD", 1)))
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    graph.tensors = [_tensor(f"layer/Add_{index}", index + 1) for index in range(COUNT + 2)]
    model.buffers = [schema.BufferT() for _ in range(COUNT + 3)]
    model.buffers[1].data = np.frombuffer(np.arange(4, dtype=np.float32).tobytes(), np.uint8)
    graph.operators = []
    for index in range(COUNT):
        operator = schema.OperatorT()
        operator.inputs, operator.outputs = [index + 1, 0], [index + 2]
        operator.builtinOptions, operator.builtinOptionsType = schema.AddOptionsT(), schema.BuiltinOptions.AddOptions
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [1], [COUNT + 1]
    signature.inputs, signature.outputs = [_entry("x", 1)], [_entry("y", COUNT + 1)]
    return model


def _tensor(name: str, buffer: int) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer, tensor.hasRank = name.encode(), [1, 4], buffer, True
    tensor.quantization = schema.QuantizationParametersT()
    return tensor


def _entry(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), tensor
    return entry


def plainly(model: Any) -> bytes:
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_packed_file_computes_the_same_and_is_smaller() -> None:
    plain = plainly(chain())
    content = TFLiteGraph(plain).content()
    assert len(content) < 0.5 * len(plain)
    x = np.ones((1, 4), np.float32)
    for file in (plain, content):
        interpreter = Interpreter(model_content=file)
        interpreter.allocate_tensors()
        found = interpreter.get_signature_runner()(x=x)["y"]
        np.testing.assert_array_equal(found, x + COUNT * np.arange(4, dtype=np.float32))
    assert [item["name"] for item in interpreter.get_input_details()] == ["x"], "as the signature has it"


def test_packing_leaves_the_model_and_its_tensors_as_they_are() -> None:
    model = chain()
    before = plainly(model)
    content = packed(model)
    assert plainly(model) == before
    read = TFLiteGraph(content)
    assert read.count() == COUNT + 2
    assert {read.shape(tensor) for tensor in range(read.count())} == {(1, 4)}
    assert read.label(5) == "layer"
    assert len(read.content()) <= len(content), "packed again, it grows no more"


def test_tensors_of_other_scales_are_other_tensors() -> None:
    graph = TFLiteGraph(plainly(chain()))
    for tensor in (3, 4, 5):
        graph.retype(tensor, "int8", Scales(0.5 if tensor < 5 else 0.25, 3))
    read = schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph.content())).subgraphs[0].tensors
    assert [float(read[tensor].quantization.scale[0]) for tensor in (3, 4, 5)] == [0.5, 0.5, 0.25]
    assert read[6].quantization is None

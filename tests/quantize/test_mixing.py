"""What a model says of one sequence must not depend on the others in the batch: where it does, a node is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers, ops
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgernn.errors import ConversionError, UnsupportedLayerError, UsageError
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.onnx_source import OnnxChoices, OnnxSource, load_onnx
from edgernn.quantize.streaming import stream
from tests.quantize.networks import frames
from tests.quantize.test_from_onnx import stepped

NUMBERS = {"zero": [0], "one": [1], "first": 0, "last": -1, "back": [-1], "end": [-(2**62)]}
Nodes = list[tuple[str, list[str], dict[str, Any]]]


def behind_a_gru(
    nodes: Nodes, batch: str | int = "batch", rank: int = 3, numbers: Mapping[str, object] = MappingProxyType({})
) -> onnx.ModelProto:
    """A GRU over (batch, time, features) gives g, nodes named after their operator make y of it."""
    random = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(np.array(value, np.int64), name) for name, value in {**NUMBERS, **numbers}.items()
    ]
    for name, shape in (("w", (1, 15, 6)), ("r", (1, 15, 5))):
        constants.append(numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name))
    before: Nodes = [
        ("Transpose", ["x", "rows"], {"perm": [1, 0, 2]}),
        ("GRU", ["rows", "w", "r", "all"], {"hidden_size": 5}),
        ("Squeeze", ["all", "one", "every"], {}),
        ("Transpose", ["every", "g"], {"perm": [1, 0, 2]}),
    ]
    made = [
        helper.make_node(op_type, values[:-1], values[-1:], name=f"{op_type}_{values[-1]}", **attributes)
        for op_type, values, attributes in (*before, *nodes)
    ]
    entering = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, "time", 6])
    leaving = helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"size_{axis}" for axis in range(rank)])
    graph = helper.make_graph(made, "mixing", [entering], [leaving], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def loaded(model: onnx.ModelProto, folder: Path, **choices: Any) -> OnnxSource:
    onnx.save(model, folder / "model.onnx")
    source = load_onnx(folder / "model.onnx", OnnxChoices(**choices))
    assert isinstance(source, OnnxSource)
    return source


CENTRED: Nodes = [("ReduceMean", ["g", "m"], {"axes": [0]}), ("Sub", ["g", "m", "y"], {})]
MIXED: dict[str, tuple[Nodes, int, str]] = {
    "mean": (CENTRED, 3, "ReduceMean_m"),
    "mean, without its axis": ([("ReduceMean", ["g", "y"], {"axes": [0], "keepdims": 0})], 2, "ReduceMean_y"),
    "sum": ([("ReduceSum", ["g", "zero", "s"], {}), ("Div", ["g", "s", "y"], {})], 3, "ReduceSum_s"),
    "softmax": ([("Softmax", ["g", "y"], {"axis": 0})], 3, "Softmax_y"),
    "first": ([("Gather", ["g", "first", "y"], {"axis": 0})], 2, "Gather_y"),
    "last": ([("Gather", ["g", "last", "y"], {"axis": 0})], 2, "Gather_y"),
    "cut": ([("Slice", ["g", "zero", "one", "zero", "y"], {})], 3, "Slice_y"),
    "turned around": ([("Slice", ["g", "back", "end", "zero", "back", "y"], {})], 3, "Slice_y"),
    "product": (
        [
            ("Transpose", ["g", "a"], {"perm": [1, 0, 2]}),
            ("Transpose", ["g", "b"], {"perm": [1, 2, 0]}),
            ("MatMul", ["a", "b", "p"], {}),
            ("MatMul", ["p", "a", "q"], {}),
            ("Transpose", ["q", "y"], {"perm": [1, 0, 2]}),
        ],
        3,
        "MatMul_p",
    ),
    "broadcast": (
        [
            ("Unsqueeze", ["g", "zero", "a"], {}),
            ("Unsqueeze", ["g", "one", "b"], {}),
            ("Add", ["a", "b", "s"], {}),
            ("ReduceMax", ["s", "y"], {"axes": [0], "keepdims": 0}),
        ],
        3,
        "Add_s",
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_an_onnx_file_that_mixes_its_batch_is_refused(name: str, tmp_path: Path) -> None:
    nodes, rank, found = MIXED[name]
    with pytest.raises(UnsupportedLayerError, match=f"^{found} .* mixes the sequences of a batch: .*; let every oper"):
        loaded(behind_a_gru(nodes, rank=rank), tmp_path)


def test_a_file_for_one_sequence_has_nothing_to_mix(tmp_path: Path) -> None:
    """The way out that the refusal names: with a batch of one, the mean over it is the sequence itself."""
    source = loaded(behind_a_gru([*CENTRED[:1], ("Add", ["g", "m", "y"], {})], batch=1), tmp_path)
    x = np.random.default_rng(1).standard_normal((12, 6)).astype(np.float32)
    (found,) = stepped(stream(source.graph()), [x]).values()
    truth = np.stack(list(ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"x": x[None]})))[0]
    np.testing.assert_allclose(found, truth[0], atol=1e-5)
    with pytest.raises(UsageError, match="serves one stream, not 2: the file was exported for a batch of one"):
        stream(source.graph(), batch=2)


def test_two_streams_laid_in_turn_on_one_axis_stay_apart(tmp_path: Path) -> None:
    """What is put on another axis and comes back is no mixing."""
    turned: Nodes = [("Transpose", ["g", "t"], {"perm": [2, 0, 1]}), ("Softmax", ["t", "s"], {"axis": 0})]
    stream(loaded(behind_a_gru([*turned, ("Transpose", ["s", "y"], {"perm": [1, 2, 0]})]), tmp_path).graph(), batch=2)


def test_a_length_that_was_written_down_inside_is_told(tmp_path: Path) -> None:
    """The axis is open, and a Reshape knows one length: as PyTorch's old exporter writes nn.MultiheadAttention."""
    nodes: Nodes = [("Reshape", ["g", "sizes", "y"], {})]
    with pytest.raises(ConversionError, match=r"leaves that axis open: a length was written down .*dynamo=True\)"):
        loaded(behind_a_gru(nodes, numbers={"sizes": [1, 20, 5]}), tmp_path, time_axes={"x": 1})


KERAS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "broadcast": (lambda x: layers.GRU(3)(x)[:, None] + layers.GRU(3)(x), r"\(Add\) mixes the sequences"),
    "of no size": (
        lambda x: layers.GRU(3)(x) + layers.Reshape((5, 3))(layers.GRU(15)(x)),
        "takes one sequence, and not two at once; .* the batch first",
    ),
    "einsum": (lambda x: ops.einsum("btf,ctf->bt", x, x), "'einsum.*sums over the batch, or moves it; begin with"),
    "einsum of a constant": (lambda x: ops.einsum("btf,bk->tk", x, np.ones((1, 2))), "sums over the batch"),
    "einsum to one number": (lambda x: ops.einsum("btf,fk->", x, np.ones((6, 2))), "sums over the batch"),
    "matmul": (lambda x: ops.matmul(x, layers.GRU(6)(x)), "along the batch; give both operands the same axes"),
    "dot": (lambda x: ops.dot(layers.GRU(3)(x), layers.GRU(3)(x)), "along the batch"),
    "row": (lambda x: ops.reshape(x, (-1,)), "everything in one row"),
}


@pytest.mark.parametrize("name", KERAS)
def test_code_that_mixes_the_batch_is_refused(name: str) -> None:
    build, reason = KERAS[name]
    keras.backend.clear_session()
    first = frames()
    with pytest.raises(UnsupportedLayerError, match=reason):
        stream(from_keras(keras.Model(first, build(first))))

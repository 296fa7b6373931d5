"""Loops that tf2onnx and Keras write for recurrent layers, and loops that are something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.onnx_source import OnnxChoices, OnnxSource, load_onnx
from edgernn.quantize.simplify import simplify
from edgernn.quantize.streaming import stream
from tests.quantize.test_from_onnx import stepped

FOLDER = Path(__file__).parent / "models"
EXPECTED = np.load(FOLDER / "expected_keras.npz")
FILES = sorted(path.name for end in ("keras", "tf2onnx") for path in FOLDER.glob(f"*.{end}.onnx"))
OPERATORS = {"loop_gru": ["GRU"], "loop_gru_before": ["GRU", "GRU"], "loop_rnn": ["RNN"], "keras_lstm": ["LSTM"]}


@pytest.mark.parametrize("name", FILES)
def test_loops_become_the_operators_that_they_are(name: str) -> None:
    source = load_onnx(FOLDER / name, OnnxChoices())
    assert isinstance(source, OnnxSource)
    model = name.partition(".")[0]
    graph = stream(source.graph())
    kept = [node.op_type for node in simplify(graph.model).graph if node.op_type in ("GRU", "LSTM", "RNN", "Loop")]
    assert kept == OPERATORS[model]
    frames, truth = EXPECTED["input"][0], EXPECTED[model][0]
    (found,) = stepped(graph, [frames]).values()
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(source.oracle()([frames])[0], truth, rtol=1e-4, atol=1e-5)


def scan(decay: bool) -> onnx.ModelProto:
    """Return h = tanh(x W + h R + b) as a Scan over (time, batch, features), or the same with a state that fades."""
    random = np.random.default_rng(1)
    arrays = {"w": (3, 4), "r": (4, 4), "b": (4,)}
    constants = [
        numpy_helper.from_array((random.standard_normal(shape) * 0.5).astype(np.float32), name)
        for name, shape in arrays.items()
    ]
    node = helper.make_node
    faded = [node("Mul", ["h", "b"], ["past"])] if decay else [node("Identity", ["h"], ["past"])]
    body = helper.make_graph(
        [
            *faded, node("MatMul", ["x_t", "w"], ["a"]), node("MatMul", ["past", "r"], ["c"]),
            node("Add", ["a", "c"], ["d"]), node("Add", ["d", "b"], ["e"]), node("Tanh", ["e"], ["h_new"]),
            node("Identity", ["h_new"], ["y_t"]),
        ],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("h", 4), ("x_t", 3))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("h_new", "y_t")],
    )  # fmt: skip
    start = numpy_helper.from_array(np.zeros((1, 4), np.float32), "h0")
    graph = helper.make_graph(
        [node("Scan", ["h0", "x"], ["last", "y"], body=body, num_scan_inputs=1)],
        "scan",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", 1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["time", 1, 4])],
        [*constants, start],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "scan.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_scan_that_is_an_rnn_becomes_one(tmp_path: Path) -> None:
    source = load_onnx(saved(scan(decay=False), tmp_path), OnnxChoices())
    graph = stream(source.graph())
    assert "RNN" in {node.op_type for node in graph.model.graph}
    frames = np.random.default_rng(2).standard_normal((15, 3)).astype(np.float32)
    arrays = {item.name: numpy_helper.to_array(item) for item in scan(decay=False).graph.initializer}
    h, truth = np.zeros(4), []
    for frame in frames:
        h = np.tanh(frame @ arrays["w"] + h @ arrays["r"] + arrays["b"])
        truth.append(h)
    (found,) = stepped(graph, [frames]).values()
    np.testing.assert_allclose(found, truth, atol=1e-5)


def test_a_loop_that_only_looks_like_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedLayerError, match=r"\(Scan\) is no GRU, RNN or LSTM.*MatMul, Mul, Tanh"):
        load_onnx(saved(scan(decay=True), tmp_path), OnnxChoices())

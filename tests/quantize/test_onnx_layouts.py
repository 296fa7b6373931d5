"""Files whose frames stand where others have their examples: no batch axis, convolutions over each frame's features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgernn.errors import UsageError
from edgernn.quantize.onnx_source import OnnxChoices, OnnxSource, load_onnx
from edgernn.quantize.streaming import stream
from tests.quantize.test_from_onnx import stepped


def by_frame(random: np.random.Generator) -> onnx.ModelProto:
    """A window over the eight samples of each frame, reflected at its ends; a window over frames; a GRU over them."""
    node = helper.make_node
    shapes: dict[str, tuple[int, ...]] = {
        "kernel": (3, 1, 3),
        "second": (2, 3, 3),
        "over": (4, 8, 1),
        "w": (1, 15, 4),
        "r": (1, 15, 5),
    }
    constants = [
        numpy_helper.from_array((random.standard_normal(shape) * 0.5).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    numbers = {"one": [1], "zero": [0], "ends": [0, 0, 1, 0, 0, 1], "flat": [0, 8]}
    constants += [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in numbers.items()]
    nodes = [
        node("Unsqueeze", ["x", "one"], ["channel"]),
        node("Pad", ["channel", "ends"], ["wide"], mode="reflect"),
        node("Conv", ["wide", "kernel"], ["filtered"]),
        node("Conv", ["filtered", "second"], ["halved"], strides=[2], pads=[1, 1]),
        node("Reshape", ["halved", "flat"], ["features"]),
        node("Transpose", ["features"], ["rows"], perm=[1, 0]),
        node("Unsqueeze", ["rows", "zero"], ["channels"]),
        node("Conv", ["channels", "over"], ["mixed"]),
        node("Transpose", ["mixed"], ["frames"], perm=[2, 0, 1]),
        node("GRU", ["frames", "w", "r"], ["every"], hidden_size=5),
        node("Squeeze", ["every", "one"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "by_frame",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["time", 1, 5])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_frames_may_stand_where_others_have_examples(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    proto, path = by_frame(random), tmp_path / "by_frame.onnx"
    onnx.save(proto, path)
    source = load_onnx(path, OnnxChoices())
    assert isinstance(source, OnnxSource)
    assert source.remarks == ("x is (time, features...) in the file, and (batch, time, features...) here",)
    frames = random.standard_normal((20, 8)).astype(np.float32)
    truth = np.stack(list(ReferenceEvaluator(proto).run(None, {"x": frames})))[0]
    (found,) = stepped(stream(source.graph()), [frames]).values()
    np.testing.assert_allclose(found, truth[:, 0], atol=1e-5)
    np.testing.assert_allclose(source.oracle()([frames])[0], truth[:, 0], atol=1e-5)
    with pytest.raises(UsageError, match="serves one stream, not 2"):
        stream(source.graph(), batch=2)

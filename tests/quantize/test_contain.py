"""ONNX files that would end the process that runs them, or take its memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgernn.errors import ConversionError, UnsupportedLayerError
from edgernn.quantize.onnx_files.memory import MOST_GB, limited_memory
from edgernn.quantize.onnx_files.read import read_onnx
from edgernn.quantize.onnx_files.session import Session, TooLargeError, open_sizes
from edgernn.quantize.onnx_source import OnnxChoices, load_onnx

MODEL = Path(__file__).parent / "models" / "gru.script.onnx"
SUICIDE = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


def ends_with(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process that tries a file run this code instead."""
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **options: real([sys.executable, "-c", code], **options))


def test_a_file_that_crashes_its_process_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    ends_with(SUICIDE, monkeypatch)
    with pytest.raises(ConversionError, match=r"gru\.script\.onnx was tried .* crashed it \(signal 11\)"):
        load_onnx(MODEL, OnnxChoices(), apart=True)


def test_a_file_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    ends_with("import time; time.sleep(60)", monkeypatch)
    monkeypatch.setattr("edgernn.quantize.onnx_files.contain.PATIENCE_S", 0.2)
    with pytest.raises(ConversionError, match=r"did not end within 0\.2 s"):
        load_onnx(MODEL, OnnxChoices(), apart=True)


def test_a_process_that_fails_otherwise_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    ends_with("raise OSError('no room')", monkeypatch)
    with pytest.raises(ConversionError, match="which failed: OSError: no room"):
        load_onnx(MODEL, OnnxChoices(), apart=True)


def expanding(operator: str, folder: Path) -> Path:
    """Write a model that adds the largest of 100 GB of numbers to what comes out of a GRU."""
    proto = onnx.load(MODEL)
    sizes = {"ConstantOfShape": [160_000, 160_000], "Expand": [160_000, 160_000], "Tile": [25 * 10**9]}[operator]
    proto.graph.initializer.append(numpy_helper.from_array(np.array(sizes), "sizes"))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "single"))
    fed = ["sizes"] if operator == "ConstantOfShape" else ["single", "sizes"]
    for node in proto.graph.node:
        node.output[:] = ["within" if name == proto.graph.output[0].name else name for name in node.output]
    proto.graph.node.extend(
        [
            helper.make_node(operator, fed, ["giant"], name="expansion"),
            helper.make_node("ReduceMax", ["giant"], ["largest"], keepdims=0),
            helper.make_node("Add", ["within", "largest"], [proto.graph.output[0].name]),
        ]
    )
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile"])
def test_what_expands_beyond_the_memory_is_refused(operator: str, tmp_path: Path) -> None:
    with pytest.raises(TooLargeError, match=rf"within {MOST_GB:.2g} GB of memory \(node expansion, {operator}\)"):
        load_onnx(expanding(operator, tmp_path), OnnxChoices())


def test_what_is_too_large_apart_is_not_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def session(*_: object) -> None:
        raise AssertionError("it was run here")

    path = expanding("ConstantOfShape", tmp_path)
    monkeypatch.setattr("edgernn.quantize.onnx_files.probe.Session", session)
    with pytest.raises(ConversionError, match="tried in a process of its own, which failed: ONNX Runtime cannot run"):
        load_onnx(path, OnnxChoices(), apart=True)


@pytest.mark.skipif(sys.platform != "linux", reason="2026-11-23: only Linux tells and limits the address space")
def test_the_limit_ends_with_its_context() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with limited_memory():
        outer = resource.getrlimit(resource.RLIMIT_AS)
        with limited_memory():
            assert resource.getrlimit(resource.RLIMIT_AS)[0] <= outer[0]
            with pytest.raises(MemoryError):
                np.empty(9 * 10**9, np.uint8)
        assert resource.getrlimit(resource.RLIMIT_AS) == outer
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_file_is_tried_without_tensorflow() -> None:
    code = (
        "import sys; from edgernn.quantize.onnx_files.contain import _main; "
        f"assert _main({str(MODEL)!r}, '{{}}') == 0; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_lstm_whose_projection_was_lost_is_refused(tmp_path: Path) -> None:
    """PyTorch 2.13, dynamo=True, writes nn.LSTM(5, 6, proj_size=3) so: units of 3, weights cut, cells of 6."""
    shapes = {"W": (1, 12, 5), "R": (1, 12, 3), "B": (1, 24), "h0": (1, 1, 3), "c0": (1, 1, 6)}
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "W", "R", "B", "", "h0", "c0"], ["y"], name="lstm", hidden_size=3)],
        "projected",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", 1, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["time", 1, 1, 3])],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )
    with pytest.raises(UnsupportedLayerError, match=r"node lstm .* 3 values from 6 cells.*proj_size"):
        read_onnx(path)


def test_a_gru_without_frames_is_a_message() -> None:
    run = Session(open_sizes(onnx.load(MODEL)))
    assert run({"x": np.zeros((2, 1, 6), np.float32)}, ["88"])["88"].shape[:2] == (2, 1)
    with pytest.raises(ConversionError, match=r"ONNX Runtime cannot run the model.*Reshape"):
        run({"x": np.zeros((2, 0, 6), np.float32)}, ["88"])

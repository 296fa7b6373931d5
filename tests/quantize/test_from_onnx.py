"""Files that PyTorch exported, stepped, against the same files on whole sequences in ONNX' reference evaluator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgernn.cli import main
from edgernn.errors import UnsupportedLayerError, UsageError
from edgernn.quantize import from_onnx as module
from edgernn.quantize.graph import array_of
from edgernn.quantize.onnx_files.open_lengths import open_lengths
from edgernn.quantize.onnx_source import OnnxChoices, OnnxSource, load_onnx
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import invoke_onnx, steps
from edgernn.quantize.streaming import StepGraph, stream
from tests.quantize.networks import Array

FOLDER = Path(__file__).parent / "models"
REFUSED = {"lstm_bidirectional", "gru_bidirectional", "rnn_unrolled"}
BOUNDED = {
    f"attention_{name}" for name in ("fused", "both_ways", "masked", "encoder", "places")
}  # test_torch_attention
PATHS = [*FOLDER.glob("*.dynamo.onnx"), *FOLDER.glob("*.script.onnx")]
FILES = sorted(path.name for path in PATHS if path.name.partition(".")[0] not in {*REFUSED, *BOUNDED})
EXPECTED = np.load(FOLDER / "expected.npz")


def loaded(name: str, choices: OnnxChoices | None = None) -> OnnxSource:
    source = load_onnx(FOLDER / name, choices or OnnxChoices())
    assert isinstance(source, OnnxSource)
    return source


def stepped(graph: StepGraph, frames: list[Array]) -> dict[str, Array]:
    """Return what the step gives for all frames (or, for a summary, at the last one), by name."""
    spec = graph.spec()
    taken = list(steps(invoke_onnx(ir.to_proto(simplify(graph.model)).SerializeToString()), spec, frames))
    found = {}
    for item, kind in zip(spec.outputs, spec.output_kinds, strict=True):
        parts = [step[item.name] for step in taken]
        found[item.name] = np.concatenate(parts, 1)[0] if kind == "frames" else parts[-1][0]
    return found


def expected(name: str) -> tuple[Array, list[Array]]:
    """Return one stream, `(frames, features...)`, and PyTorch's outputs for it, batch and time in front."""
    module = name.partition(".")[0]
    arrays = [EXPECTED[key] for key in EXPECTED.files if key.startswith(f"{module}/")]
    axis = 1 if "time_first" in name else 0
    return np.take(arrays[0], 0, axis), [np.take(array, 0, _batch(array, axis)) for array in arrays[1:]]


def _batch(array: Array, axis: int) -> int:
    return axis if array.shape[axis] == 1 and array.shape[1] != 1 else 1


@pytest.mark.parametrize("name", FILES)
def test_stepping_is_the_whole_sequence(name: str) -> None:
    source = loaded(name)
    graph = stream(source.graph())
    frames, truths = expected(name)
    found, asked = stepped(graph, [frames]), source.oracle()([frames])
    assert len(found) == len(asked) >= 1
    spec = graph.spec()
    for index, truth in enumerate(truths[: len(found)]):
        ours, delay = found[spec.outputs[index].name], spec.output_delays[index]
        assert truth.std() > 1e-3, "an output that hardly varies proves nothing"
        np.testing.assert_allclose(asked[index], truth, rtol=1e-4, atol=2e-5)
        if spec.output_kinds[index] == "frames":
            ours = ours[delay:]
            truth = truth[: len(ours)]
        np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=2e-5)


def test_what_a_file_of_one_length_is_compared_with_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert loaded("lstm.dynamo.onnx").sequence.compared == ""
    file = ["convert", str(FOLDER / "lstm_fixed.dynamo.onnx"), "-o", str(tmp_path / "fixed"), "--to", "onnx", "-q"]
    assert main(file) == 0
    assert "is compared with itself with other lengths let in" in capsys.readouterr().out
    monkeypatch.setattr(module, "open_lengths", opened_once := Once(open_lengths))
    sequence = loaded("lstm_fixed.dynamo.onnx").sequence
    assert opened_once.calls == 2
    assert "not independent" in sequence.compared


class Once:
    """Does what it is made of the first time that it is called, and nothing afterwards."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: Any) -> None:
        self.calls += 1
        if self.calls == 1:
            self.function(*arguments)


def test_a_layer_that_was_unrolled_over_time_is_refused_with_the_way_out() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"11 products with one matrix.*dynamo=False.*nn\.GRU or nn\.LSTM"):
        loaded("rnn_unrolled.dynamo.onnx")


@pytest.mark.parametrize("name", ["lstm_bidirectional.dynamo.onnx", "gru_bidirectional.script.onnx"])
def test_bidirectional_layers_arrive_as_such(name: str) -> None:
    with pytest.raises(UnsupportedLayerError, match="--bidirectional"):
        stream(loaded(name).graph())


@pytest.mark.parametrize("name", ["gru_time_first.dynamo.onnx", "gru_time_first.script.onnx"])
def test_the_time_axis_is_the_one_that_the_recurrent_operator_goes_along(name: str) -> None:
    source = loaded(name)
    assert (source.sequence.layouts["x"].batch, source.sequence.layouts["x"].time) == (1, 0)
    assert [str(size) for size in source.graph().graph.inputs[0].shape or ()] == ["batch", "time", "6"]
    assert source.remarks[0] == "x is (time, batch, features...) in the file, and (batch, time, features...) here"
    assert loaded("gru.script.onnx").remarks == ()


def test_an_axis_may_be_said_and_must_be_one() -> None:
    assert loaded("gru.script.onnx", OnnxChoices(time_axes={"x": 1})).sequence.layouts["x"].time == 1
    with pytest.raises(UsageError, match=r"--time-axis x=3: the input has 3 axes"):
        loaded("gru.script.onnx", OnnxChoices(time_axes={"x": 3}))
    with pytest.raises(UsageError, match=r"--time-axis y=1: there is no such input; there are x"):
        loaded("gru.script.onnx", OnnxChoices(time_axes={"y": 1}))


def test_recurrent_operators_stay_whole_and_shapes_leave_nothing_behind() -> None:
    for exporter in ("dynamo", "script"):
        graph = simplify(stream(loaded(f"lstm_stacked.{exporter}.onnx").graph()).model).graph
        assert sorted(node.op_type for node in graph if node.op_type != "Reshape") == ["Add", "LSTM", "LSTM", "MatMul"]


def test_a_learned_initial_state_is_where_the_stream_begins() -> None:
    source = loaded("gru_learned_state.script.onnx")
    (operator,) = [node for node in source.graph().graph if node.op_type == "GRU"]
    assert np.ptp(array_of(operator.inputs[5])) > 0
    assert {state.initial for state in stream(source.graph()).states} == {0.0}


@pytest.mark.parametrize("name", ["lstm_stacked.script.onnx", "gru_time_first.script.onnx", "conv_left.dynamo.onnx"])
def test_several_streams_at_once_stay_apart(name: str) -> None:
    source = loaded(name)
    graph = stream(source.graph(), batch=3)
    random = np.random.default_rng(5)
    lanes = random.standard_normal((3, 12, 6)).astype(np.float32)
    taken = list(steps(invoke_onnx(ir.to_proto(simplify(graph.model)).SerializeToString()), graph.spec(), [lanes]))
    found = np.concatenate([next(iter(step.values())) for step in taken], 1)
    (truth,) = source.oracle().batch([lanes])
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=2e-5)


def test_frames_of_all_streams_side_by_side_are_one_streams() -> None:
    with pytest.raises(UsageError, match=r"serves one stream, not 2: node .* lays the frames of all streams side by"):
        stream(loaded("group_norm.script.onnx").graph(), batch=2)


def test_without_operators_over_time_the_open_axis_is_time(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Softmax", ["x"], ["y"], axis=-1)
    shapes = {name: onnx.helper.make_tensor_value_info(name, 1, [1, "length", 4]) for name in "xy"}
    graph = onnx.helper.make_graph([node], "plain", [shapes["x"]], [shapes["y"]])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "plain.onnx")
    source = load_onnx(tmp_path / "plain.onnx", OnnxChoices())
    assert [str(size) for size in source.graph().graph.inputs[0].shape or ()] == ["batch", "time", "4"]

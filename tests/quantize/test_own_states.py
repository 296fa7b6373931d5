"""Files that are steps already, with states of their own, against themselves in ONNX' reference evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgernn.artifact import Artifact
from edgernn.cli import main
from edgernn.errors import ConversionError, UsageError
from edgernn.quantize.bounds import Bounds
from edgernn.quantize.onnx_source import OnnxChoices, OnnxStepSource, load_onnx
from edgernn.quantize.stepping import invoke_onnx, steps
from tests.quantize.networks import Array

RANDOM = np.random.default_rng(0)
Size = int | str


def weights(name: str, *shape: int) -> onnx.TensorProto:
    array = RANDOM.standard_normal(shape) * 0.4
    return numpy_helper.from_array(array.astype(np.float32), name)


def tensor(name: str, shape: list[Size], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def numbers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "own", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def streaming(cache: str = "cache_in", new: str = "cache_out") -> onnx.ModelProto:
    """A convolution with its past, a GRU with its state, a counter, and a branch for each sample rate."""
    node, scaled = helper.make_node, tensor("scaled_here", ["batch", 4, 1])
    branches = {
        f"{name}_branch": helper.make_graph(
            [node("Mul", ["filtered", f"{name}_factor"], ["scaled_here"])],
            name,
            [],
            [scaled],
        )
        for name in ("then", "else")
    }
    nodes = [
        node("Concat", [cache, "x"], ["joined"], axis=1),
        node("Slice", ["joined", "one", "end", "one"], [new]),
        node("Transpose", ["joined"], ["channels"], perm=[0, 2, 1]),
        node("Conv", ["channels", "kernel"], ["filtered"]),
        node("Equal", ["sr", "rate"], ["is_16k"]),
        node("If", ["is_16k"], ["scaled"], **branches),
        node("Transpose", ["scaled"], ["frames"], perm=[2, 0, 1]),
        node("GRU", ["frames", "w", "r", "", "", "h0"], ["", "hn"], hidden_size=5, linear_before_reset=1),
        node("Squeeze", ["hn", "zero"], ["last"]),
        node("MatMul", ["last", "head"], ["y"]),
        node("Add", ["count", "zero_or_one"], ["new_count"]),
    ]
    constants = [
        weights("kernel", 4, 3, 3), weights("w", 1, 15, 4), weights("r", 1, 15, 5), weights("head", 5, 2),
        weights("then_factor"), weights("else_factor"), numbers("one", 1), numbers("end", 2**62), numbers("zero", 0),
        numbers("zero_or_one", 1), numpy_helper.from_array(np.array(16000, np.int64), "rate"),
    ]  # fmt: skip
    inputs = [
        tensor("x", ["batch", 1, 3]), tensor(cache, ["batch", 2, 3]), tensor("h0", [1, "batch", 5]),
        tensor("count", [3], TensorProto.INT64), tensor("sr", [], TensorProto.INT64),
    ]  # fmt: skip
    outputs = [
        tensor("y", ["batch", 2]), tensor(new, ["batch", "past", 3]), tensor("hn", [1, "batch", 5]),
        tensor("new_count", [3], TensorProto.INT64),
    ]  # fmt: skip
    return model(nodes, inputs, outputs, constants)


def saved(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "own.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def load(proto: onnx.ModelProto, folder: Path, **choices: Any) -> OnnxStepSource:
    source = load_onnx(saved(proto, folder), OnnxChoices(**choices))
    assert isinstance(source, OnnxStepSource)
    return source


def by_reference(proto: onnx.ModelProto, x: Array, states: dict[str, str], sr: int) -> Array:
    """Step the file by hand, `(frames, 3)` in, `(frames, 2)` out."""
    run = ReferenceEvaluator(proto)
    state: dict[str, Any] = {
        "h0": np.zeros((1, 1, 5), np.float32), "count": np.zeros(3, np.int64),
        **{name: np.zeros((1, 2, 3), np.float32) for name in states if name not in ("h0", "count")},
    }  # fmt: skip
    found = []
    for frame in x:
        y, *fresh = run.run(["y", *states.values()], {"x": frame[None, None], "sr": np.array(sr), **state})
        state = dict(zip(states, fresh, strict=True))
        found.append(y[0])
    return np.array(found)


STATES = {"cache_in": "cache_out", "h0": "hn", "count": "new_count"}


@pytest.mark.parametrize("sr", [16000, 8000])
def test_the_file_is_the_step_and_its_states_are_found_by_name(sr: int, tmp_path: Path) -> None:
    proto = streaming()
    source = load(proto, tmp_path, constants={"sr": float(sr)})
    step = source.step()
    spec = step.spec()
    assert {state.input: state.output for state in spec.states} == STATES
    assert [(state.shape, state.dtype) for state in spec.states] == [
        ((1, 2, 3), "float32"), ((1, 1, 5), "float32"), ((1, 3), "int64")
    ]  # fmt: skip
    assert ((spec.inputs[0].shape, spec.outputs[0].shape), spec.frames_per_step) == (((1, 1, 3), (1, 1, 2)), 1)
    x = np.random.default_rng(1).standard_normal((30, 3)).astype(np.float32)
    truth = by_reference(proto, x, STATES, sr)
    taken = list(steps(invoke_onnx(ir.to_proto(step.model).SerializeToString()), spec, [x]))
    np.testing.assert_allclose(np.concatenate([item["y"] for item in taken])[:, 0], truth, atol=1e-5)
    np.testing.assert_allclose(source.oracle()([x])[0], truth, atol=1e-5)
    assert {node.op_type for node in step.model.graph} >= {"Conv", "GRU"}
    assert "If" not in {node.op_type for node in step.model.graph}


def test_the_other_branch_is_another_model(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    fast, slow = (by_reference(streaming(), x, STATES, sr) for sr in (16000, 8000))
    assert np.abs(fast - slow).max() > 1e-3


def test_states_with_other_names_are_said(tmp_path: Path) -> None:
    proto = streaming("left", "right")
    source = load(
        proto, tmp_path, constants={"sr": 16000.0}, states={"left": "right", "h0": "hn", "count": "new_count"}
    )
    assert len(source.step().states) == 3
    with pytest.raises(UsageError, match=r"--state left=hn: the one is FLOAT \[batch, 2, 3\], the other FLOAT \[1"):
        load(proto, tmp_path, states={"left": "hn"})
    with pytest.raises(UsageError, match="there is no output wrong; there are y, right, hn, new_count"):
        load(proto, tmp_path, states={"left": "wrong"})


def echo(inputs: dict[str, list[Size]], outputs: dict[str, str]) -> onnx.ModelProto:
    """Return a model whose outputs are its inputs plus one, `outputs` naming which."""
    nodes = [helper.make_node("Add", [source, "one"], [name]) for name, source in outputs.items()]
    one = numpy_helper.from_array(np.ones((), np.float32), "one")
    sizes = [tensor(name, shape) for name, shape in inputs.items()]
    return model(nodes, sizes, [tensor(name, inputs[source]) for name, source in outputs.items()], [one])


def chunked(past: str, new: str, h: str = "h", after: str = "after") -> onnx.ModelProto:
    """A convolution and a GRU over eight frames at once, the states of neither named after the other side."""
    node = helper.make_node
    nodes = [
        node("Concat", [past, "x"], ["joined"], axis=1),
        node("Slice", ["joined", "last_two", "end", "one"], [new]),
        node("Transpose", ["joined"], ["channels"], perm=[0, 2, 1]),
        node("Conv", ["channels", "kernel"], ["filtered"]),
        node("Transpose", ["filtered"], ["rows"], perm=[2, 0, 1]),
        node("GRU", ["rows", "w", "r", "", "", h], ["all", after], hidden_size=5),
        node("Squeeze", ["all", "one"], ["every"]),
        node("Transpose", ["every"], ["y"], perm=[1, 0, 2]),
    ]
    constants = [weights("kernel", 4, 6, 3), weights("w", 1, 15, 4), weights("r", 1, 15, 5)]
    constants += [numbers("one", 1), numbers("last_two", -2), numbers("end", 2**62)]
    inputs = [tensor("x", [1, 8, 6]), tensor(past, [1, 2, 6]), tensor(h, [1, 1, 5])]
    outputs = [tensor("y", [1, 8, 5]), tensor(new, [1, 2, 6]), tensor(after, [1, 1, 5])]
    return model(nodes, inputs, outputs, constants)


def test_states_that_no_name_tells_are_suggested(tmp_path: Path) -> None:
    """Of what is suggested, the file can be made: these are the pairs to give."""
    with pytest.raises(UsageError, match=r"say which its states are: --state left=right, --state h=after$"):
        load(chunked("left", "right"), tmp_path)
    with pytest.raises(UsageError, match=r"states are: --state h_in=h_out, --state left=right$"):
        load(chunked("left", "right", "h_in", "h_out"), tmp_path)
    states = {"left": "right", "h": "after"}
    source = load(chunked("left", "right"), tmp_path, states=states, time_axes={"x": 1})
    assert source.step().spec().frames_per_step == 8


def test_a_file_has_a_chunk_of_its_own(tmp_path: Path) -> None:
    known = {"states": {"left": "right", "h": "after"}}
    proto = chunked("left", "right")
    source = load(proto, tmp_path, frames_per_step=8, **known)
    assert source.step().spec().inputs[0].shape == (1, 8, 6)
    with pytest.raises(UsageError, match=r"takes 1 \(x \[1,8,6\]\).*or say which axis has .*: --time-axis x=1 \(8\)$"):
        load(proto, tmp_path, frames_per_step=4, **known)
    with pytest.raises(
        UsageError, match=r"--frames-per-step 4: the file's own step takes 8 \(x .*: leave the option out$"
    ):
        load(proto, tmp_path, frames_per_step=4, time_axes={"x": 1}, **known)


def test_what_could_be_several_things_is_asked_for(tmp_path: Path) -> None:
    both = echo({"x_in": [1, 1, 4], "h_in": [1, 1, 4]}, {"x_out": "x_in", "h_out": "h_in"})
    with pytest.raises(
        UsageError, match=r"none brings frames: give .* states, of --state x_in=x_out --state h_in=h_out$"
    ):
        load(both, tmp_path)
    assert [state.name for state in load(both, tmp_path, states={"h_in": "h_out"}).step().states] == ["h_in"]
    several = echo({"x": [1, 1, 3], "h": [1, 1, 4]}, {"h_out": "h", "h_new": "h", "y": "x"})
    with pytest.raises(
        UsageError, match=r"the input h FLOAT .* several outputs: give --state h=h_out or --state h=h_new"
    ):
        load(several, tmp_path)


def test_a_step_is_what_it_is(tmp_path: Path) -> None:
    source = load(streaming(), tmp_path, constants={"sr": 16000.0})
    asked: list[dict[str, Any]] = [{"batch": 2}, {"frames_per_step": 4}, {"bounds": Bounds(pooling_window=3)}]
    for options in asked:
        with pytest.raises(UsageError, match="own: its step takes 1 frames of one stream, exactly as it is"):
            source.step(**options)
    with pytest.raises(ConversionError, match="not a model over whole sequences"):
        source.graph()


def test_a_number_that_nobody_gave_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the input sr .* brings no frames.*--constant sr=NUMBER"):
        load(streaming(), tmp_path)
    with pytest.raises(UsageError, match=r"--constant rate=8000: there is no such input; there are x, cache_in"):
        load(streaming(), tmp_path, constants={"rate": 8000.0})
    with pytest.raises(UsageError, match=r"--constant sr=0\.5: the input takes INT64 only"):
        load(streaming(), tmp_path, constants={"sr": 0.5})


def windowed() -> onnx.ModelProto:
    """A step over as many samples as it is given, in windows of four; the state is their last sum."""
    node = helper.make_node
    nodes = [
        node("Reshape", ["samples", "windows"], ["parts"]),
        node("ReduceMax", ["parts"], ["largest"], axes=[2], keepdims=0),
        node("ReduceMax", ["largest"], ["top"], axes=[1], keepdims=1),
        node("Mul", ["h", "half"], ["decayed"]),
        node("Add", ["top", "decayed"], ["h_out"]),
        node("Tanh", ["h_out"], ["probability"]),
    ]
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    inputs = [tensor("samples", ["batch", "n"]), tensor("h", ["batch", 1])]
    outputs = [tensor("probability", ["batch", 1]), tensor("h_out", ["batch", 1])]
    return model(nodes, inputs, outputs, [half, numbers("windows", 1, -1, 4)])


def test_samples_are_frames_without_features(tmp_path: Path) -> None:
    source = load(windowed(), tmp_path, frames_per_step=8)
    spec = source.step().spec()
    assert (spec.inputs[0].shape, spec.outputs[0].shape, spec.frames_per_step) == ((1, 8), (1, 1, 1), 8)
    samples = np.random.default_rng(2).standard_normal(80).astype(np.float32)
    h, truth = 0.0, []
    for start in range(0, 80, 8):
        h = float(samples[start : start + 8].max()) + h / 2
        truth.append(np.tanh(h))
    np.testing.assert_allclose(source.oracle()([samples])[0].ravel(), truth, atol=1e-6)
    taken = steps(invoke_onnx(ir.to_proto(source.step().model).SerializeToString()), spec, [samples])
    np.testing.assert_allclose([float(item["probability"].item()) for item in taken], truth, atol=1e-6)
    with pytest.raises(ConversionError, match=r"does not run with inputs of the sizes samples \[1, 1\].*--frames-per"):
        load(windowed(), tmp_path)


def test_the_command_line_converts_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(streaming(), tmp_path)
    arguments = ["convert", str(path), "-o", str(tmp_path / "artifact"), "--constant", "sr=16000"]
    assert main([*arguments, "--state", "cache_in=cache_out", "--state", "h0=hn", "--state", "count=new_count",
                 "--to", "onnx", "--quantize", "float32", "-q"]) == 0  # fmt: skip
    artifact = Artifact.open(tmp_path / "artifact")
    assert [state.input for state in artifact.model("onnx").spec.states] == ["cache_in", "h0", "count"]
    assert artifact.parity["onnx"]["outputs"][0]["max_abs"] < 1e-5
    assert main([*arguments, "--state", "h0"]) == 2
    assert "--state h0: expected external or internal, or INPUT=OUTPUT" in capsys.readouterr().err

"""SavedModels without layers, as Keras 3 exports them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework import op_def_registry

from edgernn.cli import main
from edgernn.errors import ConversionError, MissingDependencyError, UnsupportedLayerError
from edgernn.quantize.onnx_source import load_onnx
from edgernn.quantize.saved_graphs import source as saved_source
from edgernn.quantize.saved_graphs.freeze import freeze
from edgernn.quantize.saved_graphs.operators import HARMLESS
from edgernn.quantize.saved_graphs.run import FrozenGraph
from edgernn.quantize.saved_graphs.served import read_served
from edgernn.quantize.source import load_source
from tests.quantize.networks import FEATURES, Build, chain, frames, keras_outputs, randomized, streams_for
from tests.quantize.test_from_onnx import stepped

MAY_HOLD_STATE = {"If", "ReadVariableOp", "StatefulPartitionedCall", "While"}
"""Operators that TensorFlow calls stateful because of what may be in their functions, or because a variable changes."""


def exported(model: Any, folder: Path) -> Path:
    model.export(folder, verbose=False)
    return folder


def changed(folder: Path, change: Callable[[Any], object]) -> Path:
    """Change the message in a SavedModel."""
    model = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    change(model)
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder


@pytest.fixture(scope="module")
def gru(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(gru_model(), tmp_path_factory.mktemp("exported") / "gru")


def gru_model() -> Any:
    return randomized(chain(layers.GRU(5, return_sequences=True), layers.Dense(3)))


@pytest.fixture
def copy(gru: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gru, tmp_path / "gru"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take SavedModels apart in this process: another one would load TensorFlow anew."""
    monkeypatch.setattr(saved_source, "_freeze_apart", freeze)
    monkeypatch.setattr(saved_source, "load_onnx", lambda path, choices, apart: load_onnx(path, choices))


# what is served


def test_harmless_operators_are_known_and_without_state() -> None:
    known = {name: op_def_registry.get(name) for name in HARMLESS}
    assert [name for name, found in known.items() if found is None] == []
    assert {name for name, found in known.items() if found is not None and found.is_stateful} == MAY_HOLD_STATE


def test_what_is_served_leaves_saving_and_restoring_out(gru: Path) -> None:
    served = read_served(gru)
    whole = SavedModel.FromString((gru / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    assert {"SaveV2", "RestoreV2"} <= {node.op for function in whole.library.function for node in function.node_def}
    kept = {node.op for function in served.graph.library.function for node in function.node_def}
    assert "While" in kept
    assert kept <= HARMLESS
    assert len(served.variables) == 5
    assert list(served.outputs) == ["output_0"]


def with_node(op: str) -> Callable[[Any], None]:
    """Return what puts an operator into the deepest function, the body of the loop."""

    def change(model: Any) -> None:
        functions = model.meta_graphs[0].graph_def.library.function
        body = next(item for item in functions if "while_body" in item.signature.name)
        body.node_def.add(name="added", op=op)

    return change


@pytest.mark.parametrize(
    "op", ["WriteFile", "ReadFile", "PyFunc", "EagerPyFunc", "RestoreV2", "VarHandleOp", "XlaLaunch"]
)
def test_an_operator_that_is_not_on_the_list_is_refused(op: str, copy: Path) -> None:
    with pytest.raises(UnsupportedLayerError, match=rf"gru: its node added is {op}, which is not among the operators"):
        load_source(changed(copy, with_node(op)))


def test_an_operator_beside_the_functions_is_refused(copy: Path) -> None:
    def change(model: Any) -> None:
        graph = model.meta_graphs[0].graph_def
        call = next(node for node in graph.node if node.name == "StatefulPartitionedCall_1")
        graph.node.add(name="dropper", op="WriteFile")
        call.input.append("^dropper")

    with pytest.raises(UnsupportedLayerError, match="its node dropper is WriteFile"):
        load_source(changed(copy, change))


def test_a_function_named_like_a_harmless_operator_is_looked_into(copy: Path) -> None:
    def change(model: Any) -> None:
        functions = model.meta_graphs[0].graph_def.library.function
        functions.add().signature.name = "Tanh"
        functions[-1].node_def.add(name="inside", op="WriteFile")

    with pytest.raises(UnsupportedLayerError, match="its node inside is WriteFile"):
        load_source(changed(copy, change))


def test_what_nothing_calls_is_neither_run_nor_refused(copy: Path) -> None:
    def change(model: Any) -> None:
        graph = model.meta_graphs[0].graph_def
        graph.library.function.add().signature.name = "unused"
        graph.library.function[-1].node_def.add(name="inside", op="WriteFile")
        graph.node.add(name="initializer", op="WriteFile")
        model.meta_graphs[0].collection_def["saved_model_main_op"].node_list.value.append("initializer")

    served = read_served(changed(copy, change))
    assert "unused" not in {item.signature.name for item in served.graph.library.function}
    assert "initializer" not in {node.name for node in served.graph.node}


@pytest.mark.parametrize(
    ("op", "advice"), [("CudnnRNNV3", "CUDA_VISIBLE_DEVICES="), ("AssignVariableOp", "stateful=True")]
)
def test_what_can_be_exported_otherwise_is_said(op: str, advice: str, copy: Path) -> None:
    with pytest.raises(UnsupportedLayerError, match=f"added is {op}.*{advice}"):
        read_served(changed(copy, with_node(op)))


def test_a_stateful_model_is_refused(tmp_path: Path) -> None:
    first = keras.Input(batch_shape=(1, None, FEATURES))
    model = keras.Model(first, layers.SimpleRNN(3, stateful=True, return_sequences=True)(first))
    model.export(tmp_path / "model", verbose=False, input_signature=[keras.InputSpec("float32", (1, None, FEATURES))])
    with pytest.raises(UnsupportedLayerError, match=r"is AssignVariableOp.*stateful=True"):
        read_served(tmp_path / "model")


def test_a_model_that_serves_nothing_is_refused(copy: Path) -> None:
    def change(model: Any) -> None:
        signatures = model.meta_graphs[0].signature_def
        signatures["other"].CopyFrom(signatures.pop("serving_default"))

    with pytest.raises(ConversionError, match=r"no signature serving_default .*other.*model\.save"):
        read_served(changed(copy, change))


def test_hints_of_where_and_how_to_run_are_left_out(copy: Path) -> None:
    def change(model: Any) -> None:
        for function in model.meta_graphs[0].graph_def.library.function:
            for node in function.node_def:
                node.device = "/job:elsewhere/device:GPU:7"
                node.attr["_XlaMustCompile"].b = True

    served = read_served(changed(copy, change))
    nodes = [node for function in served.graph.library.function for node in function.node_def]
    assert {node.device for node in nodes} == {""}
    assert not any(name.startswith("_") for node in nodes for name in node.attr)


def test_without_tf2onnx_the_extra_is_named(gru: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(saved_source, "find_spec", lambda name: None if name == "tf2onnx" else real(name))
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgernn\[savedmodel\]'"):
        load_source(gru)


# its values


def several() -> Any:
    left, right = frames(name="left"), frames(name="right")
    both = layers.Concatenate()([layers.LSTM(4, return_sequences=True)(left), right])
    return keras.Model([left, right], [layers.GRU(3, return_sequences=True)(both), layers.LSTM(2)(both)])


def stacked() -> Any:
    conv = layers.Conv1D(4, 3, padding="causal", activation="gelu")
    return chain(
        conv, layers.LSTM(5, return_sequences=True), layers.LayerNormalization(), layers.GRU(4, return_sequences=True)
    )


MODELS: dict[str, Build] = {
    "gru": gru_model,
    "lstm": lambda: chain(layers.LSTM(5, return_sequences=True), layers.Dense(3)),
    "gru_before": lambda: chain(layers.GRU(5, return_sequences=True, reset_after=False)),
    "rnn": lambda: chain(layers.SimpleRNN(5, return_sequences=True), layers.Dense(3, activation="softmax")),
    "lstm_last": lambda: chain(layers.LSTM(5), layers.Dense(3)),
    "gru_last": lambda: chain(layers.GRU(5), layers.Dense(3)),
    "stacked": stacked,
    "strided": lambda: chain(layers.Conv1D(4, 3, padding="causal", strides=2), layers.GRU(4, return_sequences=True)),
    "cropped": lambda: chain(layers.Cropping1D((2, 0)), layers.GRU(4, return_sequences=True)),
    "by_frame": lambda: chain(layers.Dense(4, activation="gelu"), layers.LayerNormalization()),
    "fixed": lambda: chain(layers.LSTM(5, return_sequences=True), length=20),
    "several": several,
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name != "gru" else ()) for name in MODELS]
)
def test_stepping_and_the_truth_are_what_keras_gives(name: str, tmp_path: Path) -> None:
    model = randomized(MODELS[name]())
    source = load_source(exported(model, tmp_path / "model"))
    streams = streams_for(model)
    truth = [output[0] for output in keras_outputs(model, [array[None] for array in streams])]
    for given, wanted in zip(source.oracle()(streams), truth, strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5)
    step = source.step()
    spec = step.spec()
    for found, wanted, delay in zip(stepped(step, streams).values(), truth, spec.output_delays, strict=True):
        if wanted.ndim > 1:
            found, wanted = found[delay:], wanted[: len(found) - delay]
            assert len(found) == len(wanted) >= 20
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_graph_of_one_length_is_compared_at_that_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomized(chain(layers.LSTM(3), length=20))
    source = load_source(exported(model, tmp_path / "model"))
    assert "takes 20 frames, no more and no fewer" in source.remarks[-1]
    assert source.oracle()([np.ones((33, FEATURES), np.float32)])[0].shape == (3,)
    real = FrozenGraph.__call__

    def wrong(self: FrozenGraph, fed: Any, names: Any) -> Any:
        return {name: array + 0.01 for name, array in real(self, fed, names).items()}

    monkeypatch.setattr(FrozenGraph, "__call__", wrong)
    with pytest.raises(ConversionError, match=r"something else than TensorFlow at its own length of 20 frames"):
        source.oracle()([np.ones((33, FEATURES), np.float32)])


@pytest.mark.usefixtures("here")
def test_damaged_values_are_refused(copy: Path) -> None:
    data = next((copy / "variables").glob("variables.data*"))
    data.write_bytes(data.read_bytes()[:-200])
    with pytest.raises(ConversionError, match="its values cannot be read"):
        load_source(copy)


# in a process of its own


def ends_with(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process that takes a SavedModel apart run this code instead."""
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **options: real([sys.executable, "-c", code], **options))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"gru was tried .* crashed it \(signal 11\)"),
        ("import time; time.sleep(60)", r"gru was tried, and stopped: it did not end within 0"),
        ("import sys; print('error: no room', file=sys.stderr); sys.exit(1)", "gru cannot be brought to ONNX: no room"),
    ],
)
def test_what_ends_its_process_is_a_message(code: str, says: str, gru: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_with(code, monkeypatch)
    monkeypatch.setattr(saved_source, "PATIENCE_S", 0.3)
    with pytest.raises(ConversionError, match=says):
        load_source(gru)


@pytest.mark.slow
def test_an_exported_folder_is_converted(gru: Path, tmp_path: Path) -> None:
    assert main(["convert", str(gru), "-o", str(tmp_path / "out"), "-q"]) == 0
    assert main(["verify", str(tmp_path / "out")]) == 0


@pytest.mark.slow
def test_a_damaged_folder_is_one_message(copy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (copy / "variables" / "variables.index").write_bytes(b"nonsense")
    assert main(["convert", str(copy), "-o", str(tmp_path / "out"), "-q"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "its values cannot be read" in line

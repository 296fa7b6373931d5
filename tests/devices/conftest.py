"""Small step models, each with a formula in NumPy that tells what it must give.

The TFLite files are in `models/`, made by `models/make.py`; the ONNX files are made here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgernn.artifact import Artifact, ModelFile, write_artifact
from edgernn.decode.keyword import KeywordSpec
from edgernn.devices.runner import RUNTIMES, open_model
from edgernn.frontend import LogMel
from edgernn.spec import QuantParams, StateSpec, StreamSpec, TensorSpec
from edgernn.stream import Runner

# One needs TensorFlow, which these tests do not; the other is run by the system's Python, which has GStreamer.
collect_ignore = ["models/make.py", "rtsp_server.py"]

MODELS = Path(__file__).parent / "models"
FEATURES, UNITS, OUTPUTS = 3, 4, 2
LOUD = -8.0  # mean log-mel energy above which the model "energy" says "sound"

OpenModel = Callable[..., Runner]


def spec_of(name: str) -> StreamSpec:
    """Return the spec of the model `name`."""
    one, eighth = QuantParams(1 / 128, 0), QuantParams(1 / 32, 0)
    inputs, outputs, states = {
        "lstm": (
            TensorSpec("x", (1, 1, FEATURES)),
            TensorSpec("y", (1, OUTPUTS)),
            (StateSpec("lstm.h", "h_in", "h_out", (1, UNITS)), StateSpec("lstm.c", "c_in", "c_out", (1, UNITS))),
        ),
        "int8": (
            TensorSpec("x", (1, 1, FEATURES), "int8", QuantParams(1 / 32, 5)),
            TensorSpec("y", (1, OUTPUTS), "int8", QuantParams(1 / 32, 7)),
            (
                StateSpec("lstm.h", "h_in", "h_out", (1, UNITS), "int8", one),
                StateSpec("lstm.c", "c_in", "c_out", (1, UNITS), "int8", eighth),
            ),
        ),
        "delay": (
            TensorSpec("x", (1, 1, 2)),
            TensorSpec("y", (1, 2)),
            (StateSpec("old", "old_in", "old_out", (1, 2)), StateSpec("older", "older_in", "older_out", (1, 2))),
        ),
        "hold": (
            TensorSpec("x", (1, 1, 2)),
            TensorSpec("y", (1, 2)),
            (StateSpec("sum", "sum_in", "sum_out", (1, 2), initial=5.0, hold_steps=3),),
        ),
        "energy": (
            TensorSpec("x", (1, 1, 40)),
            TensorSpec("y", (1, 2)),
            (StateSpec("mean", "mean_in", "mean_out", (1, 40)),),
        ),
    }[name]
    return StreamSpec((inputs,), (outputs,), states, output_delays=(0,), output_kinds=("prefix",))


def lstm_weights() -> dict[str, NDArray[np.float32]]:
    """Return weights of one LSTM layer, gates in the order i, o, f, g, and of the Dense layer after it."""
    rng = np.random.default_rng(7)
    shapes = {
        "kernel": (FEATURES, 4 * UNITS),
        "recurrent": (UNITS, 4 * UNITS),
        "bias": (4 * UNITS,),
        "out": (UNITS, OUTPUTS),
        "out_bias": (OUTPUTS,),
    }
    return {name: rng.normal(0, 0.6, shape).astype(np.float32) for name, shape in shapes.items()}


def lstm_outputs(frames: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the outputs `(n, OUTPUTS)` of the model "lstm" for frames `(n, FEATURES)`."""
    w = {name: array.astype(np.float64) for name, array in lstm_weights().items()}
    h, c, outputs = np.zeros(UNITS), np.zeros(UNITS), []
    for x in frames.astype(np.float64):
        i, o, f, g = np.split(x @ w["kernel"] + h @ w["recurrent"] + w["bias"], 4)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        outputs.append(h @ w["out"] + w["out_bias"])
    return np.array(outputs)


def _sigmoid(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-value))


def onnx_bytes(name: str) -> bytes:
    """Return the model `name` as an ONNX file."""
    import onnx
    from onnx import helper, numpy_helper

    spec, (nodes, constants) = spec_of(name), ONNX[name]()

    def value(tensor: str, shape: tuple[int, ...]) -> Any:
        return helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [helper.make_node(kind, ins.split(), outs.split(), **options) for kind, ins, outs, options in nodes],
        name,
        [value(t.name, t.shape) for t in spec.inputs] + [value(s.input, s.shape) for s in spec.states],
        [value(t.name, t.shape) for t in spec.outputs] + [value(s.output, s.shape) for s in spec.states],
        [numpy_helper.from_array(array, constant) for constant, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


Graph = tuple[list[tuple[str, str, str, dict[str, Any]]], dict[str, NDArray[Any]]]


def _lstm_graph() -> Graph:
    w = lstm_weights()
    nodes: Any = [
        ("Reshape", "h_in three", "h", {}),
        ("Reshape", "c_in three", "c", {}),
        ("LSTM", "x W R B length h c", "seq hn cn", {"hidden_size": UNITS}),
        ("Reshape", "hn two", "h_out", {}),
        ("Reshape", "cn two", "c_out", {}),
        ("Gemm", "h_out out out_bias", "y", {}),
    ]
    return nodes, {
        "W": w["kernel"].T[None].copy(),
        "R": w["recurrent"].T[None].copy(),
        "B": np.concatenate([w["bias"], 0 * w["bias"]])[None],
        "length": np.array([1], np.int32),
        "three": np.array([1, 1, UNITS]),
        "two": np.array([1, UNITS]),
        "out": w["out"],
        "out_bias": w["out_bias"],
    }


def _delay_graph() -> Graph:
    nodes: Any = [
        ("Identity", "older_in", "y", {}),
        ("Identity", "old_in", "older_out", {}),
        ("Reshape", "x shape", "old_out", {}),
    ]
    return nodes, {"shape": np.array([1, 2])}


def _hold_graph() -> Graph:
    nodes: Any = [("Reshape", "x shape", "flat", {}), ("Add", "sum_in flat", "y", {}), ("Identity", "y", "sum_out", {})]
    return nodes, {"shape": np.array([1, 2])}


def _energy_graph() -> Graph:
    nodes: Any = [
        ("Reshape", "x shape", "flat", {}),
        ("Mul", "flat tenth", "new", {}),
        ("Mul", "mean_in rest", "old", {}),
        ("Add", "old new", "mean_out", {}),
        ("ReduceMean", "mean_out", "level", {"axes": [1], "keepdims": 1}),
        ("Sub", "level loud", "above", {}),
        ("Mul", "above signs", "y", {}),
    ]
    constants: dict[str, NDArray[Any]] = {
        "shape": np.array([1, 40]),
        "tenth": np.float32(0.1).reshape(1),
        "rest": np.float32(0.9).reshape(1),
        "loud": np.float32(LOUD).reshape(1),
        "signs": np.array([[2.0, -2.0]], np.float32),
    }
    return nodes, constants


ONNX: dict[str, Callable[[], Graph]] = {
    "lstm": _lstm_graph,
    "delay": _delay_graph,
    "hold": _hold_graph,
    "energy": _energy_graph,
}


# tflite-runtime lives in an environment of its own, with NumPy 1: test_tflite_runtime.py makes one.
INSTALLED = [name for name, runtime in RUNTIMES.items() if find_spec(runtime.module.partition(".")[0])]


@pytest.fixture(params=INSTALLED)
def runtime(request: pytest.FixtureRequest) -> str:
    """Return the name of each runtime that is installed."""
    name: str = request.param
    return name


@pytest.fixture
def model_file(tmp_path: Path) -> Callable[[str, str], ModelFile]:
    """Return a function that makes the `ModelFile` of a model in a format."""

    def make(name: str, kind: str) -> ModelFile:
        path = tmp_path / f"{name}.{kind}"
        path.write_bytes(content_of(name, kind))
        return ModelFile(kind, path, "int8" if name == "int8" else "float32", spec_of(name), path.stat().st_size)

    return make


@pytest.fixture
def open_named(model_file: Callable[[str, str], ModelFile], runtime: str) -> Callable[[str], Runner]:
    """Return a function that opens a model by name, in each runtime."""
    return lambda name: open_model(model_file(name, RUNTIMES[runtime].format), runtime)


def content_of(name: str, kind: str) -> bytes:
    """Return the bytes of a model file."""
    return (MODELS / f"{name}.tflite").read_bytes() if kind == "tflite" else onnx_bytes(name)


@pytest.fixture
def energy_artifact(tmp_path: Path) -> Artifact:
    """Return an artifact that says "sound" where there is any."""
    return write_energy_artifact(tmp_path / "energy")


def write_energy_artifact(path: Path) -> Artifact:
    """Write the artifact with the model "energy", in both formats, behind a front end and a decoder."""
    stream = spec_of("energy").to_dict()
    files = {f"step.{kind}": content_of("energy", kind) for kind in ("tflite", "onnx")}
    programs = {
        "step": {kind: {"file": f"step.{kind}", "scheme": "float32", "stream": stream} for kind in ("tflite", "onnx")}
    }
    manifest = {
        "name": "energy",
        "programs": programs,
        "labels": ["sound", "silence"],
        "frame_rate_hz": 100.0,
        "front_end": LogMel().to_dict(),
        "decoder": KeywordSpec(refractory_ms=300.0).to_dict(),
        "conversion": {"operators": {"onnx": {"Add": 1, "Mul": 3}}},
        "parity": {"onnx": {"outputs": [{"name": "y", "max_abs": 1e-7, "argmax_agreement": 1.0}], "steps": 500}},
    }
    return write_artifact(path, manifest, files)


@pytest.fixture
def lstm_reference() -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Return the formula of the model "lstm"."""
    return lstm_outputs

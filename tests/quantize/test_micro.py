"""The list of operators for TensorFlow Lite Micro, and the files in its own interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgernn.quantize.micro import micro_operators, resolver_call
from edgernn.quantize.stepping import invoke_tflite
from edgernn.quantize.target import Target
from tests.quantize.lowering import lowered

INTEGER_ONLY = Target("integer-only")


@pytest.mark.parametrize(
    ("operator", "call"),
    [
        ("ADD", "AddAdd()"), ("BATCH_MATMUL", "AddBatchMatMul()"), ("CONV_2D", "AddConv2D()"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D()"), ("LEAKY_RELU", "AddLeakyRelu()"), ("RELU6", "AddRelu6()"),
        ("REVERSE_V2", "AddReverseV2()"), ("SPLIT_V", "AddSplitV()"),
    ],
)  # fmt: skip
def test_calls_are_spelled_as_the_resolver_has_them(operator: str, call: str) -> None:
    assert resolver_call(operator) == call


def test_the_operators_of_states_inside_have_no_kind_of_number(monkeypatch: pytest.MonkeyPatch) -> None:
    handle, value = 0, 1

    class Inside:
        """A variable that is read: as TFLiteGraph shows a file."""

        operators = (
            SimpleNamespace(called="CALL_ONCE", inputs=[], outputs=[]),
            SimpleNamespace(called="VAR_HANDLE", inputs=[], outputs=[handle]),
            SimpleNamespace(called="READ_VARIABLE", inputs=[handle], outputs=[value]),
        )

        def __init__(self, content: bytes) -> None:
            assert content == b"file"

        def name(self, op: SimpleNamespace) -> str:
            return str(op.called)

        def dtype(self, tensor: int) -> str:
            return {handle: "resource", value: "float32"}[tensor]

    monkeypatch.setattr("edgernn.quantize.micro.TFLiteGraph", Inside)
    found = micro_operators(b"file")
    assert [item["call"] for item in found] == ["AddCallOnce()", "AddReadVariable()", "AddVarHandle()"]
    assert all(item["kinds"] == ["moved"] and item["kernel"] for item in found)


SCRIPT = """
import json, sys
import numpy as np
from tflite_micro.python.tflite_micro import runtime
path, inputs, outputs = json.load(sys.stdin)
interpreter = runtime.Interpreter.from_file(path)
for index, (values, dtype) in enumerate(inputs):
    interpreter.set_input(np.array(values, dtype), index)
interpreter.invoke()
print(json.dumps([interpreter.get_output(index).tolist() for index in range(outputs)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="tflite-micro has wheels for Linux on x86-64 alone (2026-10)")
def test_integer_only_files_compute_the_same_in_tensorflow_lite_micro(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "tflite-micro"], check=True)
    for name in ("lstm", "gru", "delayed"):
        content, _ = lowered(name).tflite("int8", INTEGER_ONLY)
        assert all(item["kernel"] and "float32" not in item["kinds"] for item in micro_operators(content))
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(content)
        _assert_same(content, path, python)


def _assert_same(content: bytes, path: Path, python: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    random = np.random.default_rng(0)
    details = interpreter.get_input_details()
    fed = [random.integers(-100, 100, item["shape"]).astype(item["dtype"]) for item in details]
    given = [(array.tolist(), array.dtype.name) for array in fed]
    outputs = interpreter.get_output_details()
    result = subprocess.run(
        [python, "-c", SCRIPT], input=json.dumps([str(path), given, len(outputs)]), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    names = {index: name for name, index in _indices(content, "input").items()}
    expected = invoke_tflite(content)({names[item["index"]]: array for item, array in zip(details, fed, strict=True)})
    by_index = {index: expected[name] for name, index in _indices(content, "output").items()}
    for item, found in zip(outputs, json.loads(result.stdout), strict=True):
        distance = np.abs(np.array(found) - by_index[item["index"]].astype(int)).max()
        # its tanh and logistic of 16 bits are other polynomials: a thousandth of 65,536 levels, or one of 256
        assert distance <= (65 if item["dtype"] is np.int16 else 1), item["name"]


def _indices(content: bytes, end: str) -> dict[str, int]:
    from edgernn.quantize.tflite_graph import TFLiteGraph

    return TFLiteGraph(content).ends(end)

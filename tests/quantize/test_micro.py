"""The list of operators for TensorFlow Lite Micro, and the files in its own interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgernn.quantize.micro import KERNELS, micro_operators, resolver_call
from edgernn.quantize.target import Target
from edgernn.quantize.tflite_graph import TFLiteGraph
from edgernn.quantize.tflite_kernels import PRODUCTS
from tests.quantize.lowering import lowered
from tests.quantize.one_operator import EXAMPLES, file_of

INTEGER_ONLY = Target("integer-only")


@pytest.mark.parametrize(
    ("operator", "call"),
    [
        ("ADD", "AddAdd()"), ("BATCH_MATMUL", "AddBatchMatMul()"), ("CONV_2D", "AddConv2D()"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D()"), ("CUMSUM", "AddCumSum()"), ("LEAKY_RELU", "AddLeakyRelu()"),
        ("PADV2", "AddPadV2()"), ("RELU6", "AddRelu6()"),
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


KINDS = ("float32", "hybrid", "int8", "int16", "int32", "int64", "bool")
CHANGES = [f"{before} to {after}" for before in KINDS if before != "hybrid" for after in KINDS if after != "hybrid"]


USES = [(name, kind) for name in EXAMPLES for kind in KINDS if kind != "hybrid" or name in PRODUCTS]
CARELESS = {(name, kind) for name in ("LOGICAL_AND", "LOGICAL_OR") for kind in KINDS if kind != "bool"}
CARELESS |= {("GREATER", "int16")}
"""What it runs to no purpose: bytes of anything as truths, and a comparison whose multipliers are never set."""
USES += [(name, kind) for name in ("CAST", "DEQUANTIZE", "QUANTIZE") for kind in CHANGES]


@pytest.mark.parametrize(("name", "kind"), [("ADD", "int32"), ("SPLIT", "int16"), ("SELECT_V2", "int8"),
                                            ("FULLY_CONNECTED", "hybrid"), ("CAST", "bool to int8")])  # fmt: skip
def test_a_kind_is_that_of_the_signal(name: str, kind: str) -> None:
    (item,) = micro_operators(file_of(name, kind))
    assert (item["kinds"], item["kernel"]) == ([kind], kind != "hybrid")


def test_what_it_does_not_know_has_no_call() -> None:
    (item,) = micro_operators(file_of("TILE", "int8"))
    assert (item["call"], item["kernel"]) == (None, False)


SCRIPT = """
import json, sys
import numpy as np
from tflite_micro.python.tflite_micro import runtime
for line in sys.stdin:
    path, inputs, outputs = json.loads(line)
    try:
        interpreter = runtime.Interpreter.from_file(path, arena_size=1 << 20)
        for index, (values, dtype) in enumerate(inputs):
            interpreter.set_input(np.array(values, dtype), index)
        interpreter.invoke()
        result = [interpreter.get_output(index).tolist() for index in range(outputs)]
    except RuntimeError:
        result = None
    print("RESULT", json.dumps(result))
"""
WHEEL = "tflite-micro==0.dev20261023182759"  # of a later one, what has no kernel here may have gained it
Run = Callable[[Sequence[tuple[Path, Sequence[np.ndarray], int]]], list[Any]]


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs files once in TensorFlow Lite Micro; what it refuses gives None."""
    if sys.platform != "linux":
        pytest.skip("tflite-micro has wheels for Linux on x86-64 alone (2026-10)")
    folder = tmp_path_factory.mktemp("micro")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", WHEEL], check=True)

    def run(asked: Sequence[tuple[Path, Sequence[np.ndarray], int]]) -> list[Any]:
        lines = [
            json.dumps([str(path), [(item.tolist(), item.dtype.name) for item in inputs], outputs])
            for path, inputs, outputs in asked
        ]
        result = subprocess.run(
            [python, "-c", SCRIPT], input="\n".join(lines), capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return [json.loads(line[7:]) for line in result.stdout.splitlines() if line.startswith("RESULT ")]

    return run


@pytest.mark.slow
def test_the_list_says_what_runs_there_and_what_does_not(tmp_path: Path, micro: Run) -> None:
    """With what it has no kernel for, too: else a file that would run is said not to."""
    asked = []
    for place, (name, kind) in enumerate(USES):
        path = tmp_path / f"{place}.tflite"
        path.write_bytes(file_of(name, kind))
        asked.append((path, *_inputs_and_outputs(path.read_bytes())))
    results = micro(asked)
    ran = {use for use, result in zip(USES, results, strict=True) if result is not None}
    assert ran - CARELESS == {(name, kind) for name, kinds in KERNELS.items() for kind in kinds if kind != "moved"}
    uses = zip(USES, asked, results, strict=True)
    alone = {use for use, (path, inputs, _), found in uses if use in ran - CARELESS and not _same(path, inputs, found)}
    assert alone == {("CUMSUM", "int8"), ("SQUARED_DIFFERENCE", "int16")}, "which LiteRT does not have"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "delayed", "words"])
def test_integer_only_files_compute_the_same_in_tensorflow_lite_micro(name: str, tmp_path: Path, micro: Run) -> None:
    content, _ = lowered(name).tflite("int8", INTEGER_ONLY)
    assert all(item["kernel"] and "float32" not in item["kinds"] for item in micro_operators(content))
    path = tmp_path / "step.tflite"
    path.write_bytes(content)
    inputs, outputs = _inputs_and_outputs(content)
    (found,) = micro([(path, inputs, outputs)])
    assert _same(path, inputs, found)


def _inputs_and_outputs(content: bytes) -> tuple[list[np.ndarray], int]:
    """Return inputs, positive because there are roots and logarithms among the operators, and how many outputs."""
    from ai_edge_litert import schema_py_generated as schema

    graph, random, made = TFLiteGraph(content), np.random.default_rng(0), []
    for tensor in schema.Model.GetRootAs(content).Subgraphs(0).InputsAsNumpy():
        dtype = graph.dtype(tensor)
        levels = random.integers(
            *{"bool": (0, 2), "int16": (5000, 25000), "int32": (1, 40)}.get(dtype, (1, 100)), graph.shape(tensor)
        )
        made.append((levels / 32 if dtype == "float32" else levels).astype(dtype))
    return made, schema.Model.GetRootAs(content).Subgraphs(0).OutputsLength()


def _same(path: Path, inputs: Sequence[np.ndarray], found: Sequence[Any]) -> bool:
    """Compare with what LiteRT gives; False where it has no such kernel."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path))
        interpreter.allocate_tensors()
        for item, values in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.set_tensor(item["index"], values)
        interpreter.invoke()
    except (RuntimeError, ValueError):
        return False
    for item, values in zip(interpreter.get_output_details(), found, strict=True):
        expected = interpreter.get_tensor(item["index"])
        distance = np.abs(np.array(values, np.float64) - expected).max()
        # its tanh and logistic of 16 bits are other polynomials: a thousandth of 65,536 levels, or one of 256
        limit = {"int8": 1, "int16": 65, "float32": 1e-5}.get(expected.dtype.name, 0)
        assert distance <= limit, f"{path}: {distance}"
    return True

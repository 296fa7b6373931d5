"""Steps of several frames: each matrix is in a file once, in few bits, however many frames read it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgernn.quantize.calibrate import observe
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.graph import array_of
from edgernn.quantize.products import matrix_of
from edgernn.quantize.proof import Built
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.stepping import invoke_onnx, invoker, steps
from edgernn.quantize.target import CPU, Target
from edgernn.quantize.tflite_graph import TFLiteGraph
from edgernn.quantize.tflite_kinds import LEAST_WEIGHTS
from edgernn.spec import StreamSpec
from tests.quantize.lowering import BOUNDED, Lowered, lowered
from tests.quantize.networks import Array
from tests.quantize.test_cells import operator

FRAMES = 8
CELLS = ("lstm", "gru")
SIGNAL_DB = {"float32": 90, "float16": 50, "weights-int8": 30, "dynamic-int8": 25, "int8": 25, "int4": 10}
LEAST = {"float32": 1.0, "float16": 0.5, "weights-int8": 0.25, "dynamic-int8": 0.25, "int8": 0.25, "int4": 0.15}
"""What the matrices take in each scheme, of what they take in float32; in int4, blocks are filled up with zeros."""


def of_frames(name: str) -> Lowered:
    """Return a network whose steps take several frames: bidirectional ones do in any case."""
    return lowered(name) if name in BOUNDED else lowered(name, frames_per_step=FRAMES)


def outputs(item: Lowered, content: bytes, kind: str, spec: StreamSpec) -> Array:
    taken = steps(invoker(content, kind), spec, item.streams)
    return np.concatenate([step[spec.outputs[0].name].reshape(-1) for step in taken])


def floats(item: Lowered) -> Array:
    """Return what the step gives in float32, its operators kept: others prove that against Keras."""
    return outputs(item, ir.to_proto(item.kept.model).SerializeToString(), "onnx", item.kept.spec())


def snr_db(found: Array, truth: Array) -> float:
    noise = float(np.mean((found.astype(np.float64) - truth) ** 2))
    return float(10 * np.log10(np.mean(truth.astype(np.float64) ** 2) / max(noise, 1e-20)))


def matrix_bytes(content: bytes) -> int:
    """Return what all matrices in an ONNX file take, those inside a Scan among them."""
    graph = ir.from_proto(onnx.load_from_string(content)).graph
    constants = [value for part in (graph, *graph.subgraphs()) for value in part.initializers.values()]
    arrays = {id(value): array_of(value) for value in constants}
    return sum(array.nbytes for array in arrays.values() if array.size >= 600)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", [*CELLS, *BOUNDED])
def test_an_onnx_file_of_several_frames_follows_the_step_and_is_small(name: str, scheme: str) -> None:
    item = of_frames(name)
    content, spec = item.onnx(scheme)
    assert snr_db(outputs(item, content, "onnx", spec), floats(item)) > SIGNAL_DB[scheme]
    wanted = LEAST[scheme] * 4 * item.model.count_params()
    assert 0.8 * wanted < matrix_bytes(content) < 1.25 * wanted, "each matrix once"
    if name in CELLS:
        assert len(content) < len(lowered(name).onnx(scheme)[0]) + 5000, "as one of a frame a step"
    else:
        assert len(content) < (LEAST[scheme] + 0.25) * len(item.onnx("float32")[0])


@pytest.mark.parametrize("scheme", ["dynamic-int8", "int8"])
def test_files_of_several_frames_open_where_onnx_runtime_has_to_be_told_to_be_precise(scheme: str) -> None:
    """There it writes int8 weights anew for each product, and refuses a file in which two products share some."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    for name in ("gru", *BOUNDED):
        item = of_frames(name)
        content, spec = item.onnx(scheme)
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        fed = {tensor.name: item.streams[0][: tensor.shape[1]][None] for tensor in spec.inputs}
        fed |= {state.input: state.initial_array() for state in spec.states}
        for value, expected in zip(session.run(None, fed), invoke_onnx(content)(fed).values(), strict=True):
            np.testing.assert_allclose(value, expected, atol=1e-3)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize(("op_type", "reset_after"), [("LSTM", 0), ("GRU", 0), ("GRU", 1), ("RNN", 0)])
def test_a_rolled_cell_reads_either_way(op_type: str, reset_after: int, direction: str) -> None:
    given = {"linear_before_reset": reset_after} if op_type == "GRU" else {}
    model = operator(op_type, frames=5, direction=direction, **given)  # type: ignore[arg-type]
    random = np.random.default_rng(3)
    fed = {
        value.name or "": random.standard_normal([int(size) for size in value.shape or ()]).astype(np.float32)  # type: ignore[arg-type]
        for value in model.graph.inputs
    }
    truth, found = (
        invoke_onnx(ir.to_proto(graph).SerializeToString())(fed)
        for graph in (model, decompose_cells(model, rolled=True))
    )
    for name, expected in truth.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


def test_what_happens_inside_a_scan_is_observed_like_what_happens_frame_by_frame() -> None:
    """The recurrent products read the same values, whichever way the step is written."""
    one, many = lowered("gru"), lowered("gru", frames_per_step=FRAMES)
    streams = [[array[: len(array) // FRAMES * FRAMES] for array in one.streams]]
    apart = observe(one.taken_apart, streams), observe(many.taken_apart, streams)
    inside = [node for node in many.taken_apart.model.graph.all_nodes() if matrix_of(node) is not None]
    alone = [node for node in one.taken_apart.model.graph if matrix_of(node) is not None]
    assert len(inside) == len(alone) == 3, "kernel, gates and candidate"
    spans = [
        np.array(sorted(ranges[node.inputs[0].name] for node in nodes))  # type: ignore[union-attr,index]
        for nodes, ranges in zip((alone, inside), apart, strict=True)
    ]
    np.testing.assert_allclose(spans[1], spans[0], atol=1e-5)


@pytest.mark.parametrize("scheme", ["dynamic-int8", "int4"])
def test_a_loud_frame_leaves_the_others_of_its_step_as_true_as_they_were(scheme: str) -> None:
    item = lowered("gru", frames_per_step=FRAMES)
    frames = np.tile(item.streams[0], (4, 1))
    frames[::FRAMES] *= 30
    content, spec = item.onnx(scheme)
    kept = ir.to_proto(item.kept.model).SerializeToString()
    found, truth = (
        np.concatenate([step[spec.outputs[0].name][0] for step in steps(invoke_onnx(file), spec, [frames])])
        for file in (content, kept)
    )
    quiet = np.arange(len(truth)) % FRAMES >= 2
    assert snr_db(found[quiet], truth[quiet]) > SIGNAL_DB[scheme]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", *BOUNDED])
def test_a_tflite_file_of_several_frames_follows_the_step_and_is_small(name: str) -> None:
    item = of_frames(name)
    targets = {"int8, integer-only": Target("integer-only")}
    plain = len(item.tflite("float32")[0])
    for scheme in ("float16", "dynamic-int8", "int8", "int8, integer-only", "int4"):
        content, spec = item.tflite(scheme.partition(",")[0], targets.get(scheme, CPU))
        assert snr_db(outputs(item, content, "tflite", spec), floats(item)) > SIGNAL_DB[scheme.partition(",")[0]] - 3
        graph, wanted = TFLiteGraph(content), LEAST[scheme.partition(",")[0]] * 4 * item.model.count_params()
        constants = [graph.constant(tensor) for tensor in range(graph.count()) if graph.dtype(tensor) != "int4"]
        stored = sum(array.nbytes for array in constants if array is not None and array.size >= LEAST_WEIGHTS)
        assert stored < 1.02 * wanted, f"{scheme}: each matrix once"
        per_operator = (len(content) - wanted) / len(graph.operators)
        assert per_operator < 130, f"{scheme}: what is not weights"
        assert len(content) < plain


def test_operators_inside_a_scan_are_counted() -> None:
    content, spec = lowered("gru", frames_per_step=FRAMES).onnx("int8")
    counts = Built("onnx", SCHEMES["int8"], content, spec).operators
    assert counts["Scan"] == 1
    assert counts["MatMulIntegerToFloat"] == 3

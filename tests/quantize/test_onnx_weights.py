"""Weights of ONNX files in fewer bits: what is stored, what it is rounded to, what ONNX Runtime makes of it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.numpy_helper import to_array

from edgernn.quantize.graph import Builder, array_of
from edgernn.quantize.onnx_weights import byte_weights, half_weights, nibble_products
from edgernn.quantize.stepping import invoke_onnx
from tests.quantize.lowering import lowered
from tests.quantize.microsoft import evaluate
from tests.quantize.networks import Array
from tests.quantize.test_onnx_integers import cell, normal, operators, product, run, walk


def test_half_weights_are_rounded_to_float16_and_nothing_else() -> None:
    matrix, bias = normal(32, 16, seed=6), np.linspace(0, 1, 16, dtype=np.float32)
    model = half_weights(product(matrix, bias))
    stored = {array_of(value).dtype.str: array_of(value) for value in model.graph.initializers.values()}
    assert set(stored) == {"<f2", "<f4"}
    np.testing.assert_array_equal(stored["<f2"], matrix.astype(np.float16))
    np.testing.assert_array_equal(stored["<f4"], bias)
    found = run(model, {"x": np.eye(1, 32, dtype=np.float32)})["y"]
    np.testing.assert_array_equal(found[0], matrix.astype(np.float16)[0].astype(np.float32) + bias)


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_byte_weights_keep_the_operator_and_a_scale_for_each_unit(op_type: str) -> None:
    model = cell(op_type, units=32, features=20)
    stored = byte_weights(model)
    assert op_type in operators(stored)
    arrays = [array_of(value) for value in stored.graph.initializers.values()]
    weights = [array_of(value) for value in model.graph.initializers.values() if array_of(value).ndim == 3]
    assert sorted(array.size for array in arrays if array.dtype == np.int8) == sorted(array.size for array in weights)
    biases = [array.size for array in arrays if array.dtype == np.float32 and array.ndim == 2]
    assert biases == [array_of(model.graph.initializers["B"]).size], "a bias stays as it is"
    truth, found = walk(model, 100), walk(stored, 100)
    assert 38 < 10 * np.log10(np.mean(truth**2) / np.mean((found - truth) ** 2)) < 60


def test_onnx_runtime_unpacks_byte_weights_when_it_opens_the_file(tmp_path: object) -> None:
    """In its optimized graph the operator's weights are constants in float: no step pays for them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/optimized.onnx"
    options.log_severity_level = 3
    content = ir.to_proto(byte_weights(cell("GRU", units=32))).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(f"{tmp_path}/optimized.onnx").graph
    assert [node.op_type for node in optimized.node] == ["GRU"]
    constants = {item.name: to_array(item) for item in optimized.initializer}
    assert {constants[name].dtype for name in optimized.node[0].input[1:3]} == {np.dtype(np.float32)}


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(16, 100), columns=st.integers(16, 40), seed=st.integers(0, 2**16))
def test_nibbles_are_close_and_the_runtime_reads_them_as_its_documentation_says(
    rows: int, columns: int, seed: int
) -> None:
    matrix, x = normal(rows, columns, seed=seed), normal(1, rows, seed=seed + 1)
    model = nibble_products(product(matrix))
    (found,), (reference,) = run(model, {"x": x}).values(), evaluate(model, {"x": x}).values()
    stored = evaluate_matrix(model, rows)
    assert np.mean((stored - matrix) ** 2) < 0.012 * np.mean(matrix**2), "19 dB and more below the weights"
    np.testing.assert_allclose(reference, x @ stored, atol=1e-4)
    np.testing.assert_allclose(found, reference, atol=0.012 * np.abs(x).max() * np.abs(matrix).max() * np.sqrt(rows))


def evaluate_matrix(model: ir.Model, rows: int) -> Array:
    """Return the matrix that a model of one product stands for."""
    return np.concatenate([evaluate(model, {"x": row[None]})["y"] for row in np.eye(rows, dtype=np.float32)])


def test_a_block_that_is_zero_stays_zero() -> None:
    matrix = normal(64, 16)
    matrix[:32] = 0.0
    assert not evaluate_matrix(nibble_products(product(matrix)), 64)[:32].any()


def test_weights_take_four_bits_and_a_scale_for_each_block() -> None:
    builder = Builder("wide")
    builder.output(builder.op("MatMul", builder.input("x", (1, 256)), builder.constant(normal(256, 512))), "y")
    content = ir.to_proto(nibble_products(builder.finish())).SerializeToString()
    assert len(content) < 256 * 512 * (1 / 2 + 4 / 32) + 500
    assert np.isfinite(invoke_onnx(content)({"x": normal(1, 256)})["y"]).all()


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "crnn"])
def test_files_shrink(name: str) -> None:
    size = {scheme: len(lowered(name).onnx(scheme)[0]) for scheme in ("float32", "weights-int8", "int8", "int4")}
    assert size["weights-int8"] < 0.5 * size["float32"]
    assert size["int4"] < 0.5 * size["float32"]

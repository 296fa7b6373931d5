"""Products and cells in integers: against the formulas of ONNX Runtime's operators, and against float."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.graph import Builder, array_of
from edgernn.quantize.onnx_integers import MOST_SCALES, integer_lstm, integer_products
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import invoke_onnx
from edgernn.spec import QuantParams
from tests.quantize.lowering import lowered
from tests.quantize.microsoft import evaluate
from tests.quantize.networks import Array

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def product(matrix: Array, bias: Array | None = None) -> ir.Model:
    builder = Builder("product")
    value = builder.op("MatMul", builder.input("x", (1, matrix.shape[0])), builder.constant(matrix, "kernel"))
    builder.output(value if bias is None else builder.op("Add", value, builder.constant(bias, "bias")), "y")
    return builder.finish()


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def run(model: ir.Model, fed: dict[str, Array]) -> dict[str, Array]:
    return invoke_onnx(ir.to_proto(model).SerializeToString())(fed)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes()]


@pytest.mark.parametrize("columns", [16, MOST_SCALES, MOST_SCALES + 1, 400])
def test_weights_are_quantized_by_column(columns: int) -> None:
    matrix = normal(32, columns) * np.logspace(-3, 2, columns, dtype=np.float32)
    matrix[:, 7] = 0.0
    model = integer_products(product(matrix))
    node, *scaling = model.graph
    levels = array_of(node.inputs[1])
    scales = array_of((scaling or [node])[-1].inputs[1 if scaling else 2])
    assert operators(model) == (["DynamicQuantizeMatMul"] + ["Mul"] * (columns > MOST_SCALES))
    assert levels.dtype == np.int8
    used = np.arange(columns) != 7
    assert (np.abs(levels[:, used].astype(int)).max(axis=0) == 127).all(), "each column uses all levels"
    assert not levels[:, 7].any()
    assert (np.abs(levels * scales - matrix) <= scales / 2 * 1.0001).all()


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(4, 70),
    columns=st.sampled_from([64, MOST_SCALES, 300]),
    biased=st.booleans(),
    spread=st.floats(0.01, 30.0),
    shift=st.floats(-3.0, 3.0),
    seed=st.integers(0, 2**16),
)
def test_a_product_is_what_its_operator_says(
    rows: int, columns: int, biased: bool, spread: float, shift: float, seed: int
) -> None:
    """Whatever the ranges, with or without a bias: dynamic within rounding of a level, static to the last digits."""
    matrix, bias = normal(rows, columns, seed=seed), normal(columns, seed=seed + 1, scale=10.0)
    model = product(matrix, bias if biased else None)
    x = normal(1, rows, seed=seed + 2, scale=spread) + np.float32(shift)
    expected = x @ matrix + (bias if biased else 0)
    quant = QuantParams(float(np.abs(x).max() / 120), 3)
    for params, digits in ((None, 0.0), ({"x": quant}, 1e-4)):
        integer = integer_products(model, params)
        (found,), (reference,) = run(integer, {"x": x}).values(), evaluate(integer, {"x": x}).values()
        level = float(np.abs(matrix).max() * (np.ptp(np.append(x, 0)) / 255)) if params is None else 0.0
        np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1.01 * level + digits * (1 + spread + abs(shift)))
        noise = np.abs(x).max() / 100 * np.abs(matrix).max() * rows
        assert np.abs(found - expected).max() < noise


def test_a_bias_goes_into_the_product_and_gives_the_same() -> None:
    matrix, bias = normal(32, 16, seed=5), normal(16, seed=6)
    model = integer_products(product(matrix, bias))
    assert operators(model) == ["DynamicQuantizeMatMul"]
    x = normal(1, 32, seed=7)
    (found,) = run(model, {"x": x}).values()
    np.testing.assert_allclose(found, x @ matrix + bias, atol=0.3)
    assert np.abs(found - x @ matrix).max() > 0.3, "the bias matters here"


def test_small_products_stay_in_float() -> None:
    assert operators(integer_products(product(np.ones((4, 4), np.float32)))) == ["MatMul"]


def test_products_that_read_one_value_quantize_it_once() -> None:
    builder = Builder("two")
    x = builder.input("x", (1, 32))
    for name in "ab":
        builder.output(builder.op("MatMul", x, builder.constant(normal(32, 16), name)), f"y_{name}")
    model = integer_products(builder.finish(), {"x": QuantParams(0.02, 0)})
    assert sorted(operators(model)) == ["MatMulIntegerToFloat", "MatMulIntegerToFloat", "QuantizeLinear"]


# cells


def cell(op_type: str, units: int = 128, features: int = 40, frames: int = 1, **attributes: Any) -> ir.Model:
    """Return a step graph of one operator with weights like trained ones."""
    builder, gates = Builder(op_type), GATES[op_type]
    names = ("h", "c")[: 2 if op_type == "LSTM" else 1]
    x = builder.input("x", (frames, 1, features))
    states = [builder.input(name, (1, 1, units)) for name in names]
    constants = [
        builder.constant(normal(1, gates * units, features, seed=1, scale=0.3), "W"),
        builder.constant(normal(1, gates * units, units, seed=2, scale=units**-0.5), "R"),
        builder.constant(normal(1, 2 * gates * units, seed=3, scale=0.1), "B"),
    ]
    values = [x, *constants, None, *states]
    outputs = builder.ops(op_type, values, 1 + len(states), {"hidden_size": units, **attributes})
    for value, name in zip(outputs, ("every", *(f"{name}_out" for name in names)), strict=True):
        builder.output(value, name)
    return builder.finish()


def in_integers(model: ir.Model) -> ir.Model:
    return integer_products(simplify(decompose_cells(integer_lstm(model), rolled=True)))


def walk(model: ir.Model, steps: int = 300) -> Array:
    """Step through noise from reset; return what every frame gives."""
    invoke = invoke_onnx(ir.to_proto(model).SerializeToString())
    shapes = {value.name: [int(size) for size in value.shape or ()] for value in model.graph.inputs}  # type: ignore[arg-type]
    random = np.random.default_rng(9)
    state = {name or "": np.zeros(shape, np.float32) for name, shape in shapes.items() if name != "x"}
    every = []
    for _ in range(steps):
        result = invoke({"x": random.standard_normal(shapes["x"]).astype(np.float32), **state})
        state = {name: result[f"{name}_out"] for name in state}
        every.append(result["every"].reshape(-1))
    return np.stack(every)


CELLS: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {}),
    ("LSTM", {"activations": ["HardSigmoid", "Relu", "Tanh"]}),
    ("GRU", {"linear_before_reset": 0}),
    ("GRU", {"linear_before_reset": 1}),
    ("RNN", {}),
]


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(("op_type", "attributes"), CELLS)
def test_a_cell_in_integers_follows_the_operator(op_type: str, attributes: dict[str, Any], frames: int) -> None:
    model = cell(op_type, units=48, features=20, frames=frames, **attributes)
    integer = in_integers(model)
    assert not {"LSTM", "GRU", "RNN", "MatMul"} & set(operators(integer)), "it computes in integers"
    truth, found = walk(model), walk(integer)
    snr = 10 * np.log10(np.mean(truth**2) / np.mean((found - truth) ** 2))
    assert snr > 33
    worst = np.abs(found - truth).max(axis=1)
    assert worst[200:].max() < 2 * worst[20:200].max(), "the error does not grow"


@pytest.mark.parametrize(("op_type", "nodes"), [("GRU", 15), ("RNN", 4), ("LSTM", 1)])
def test_a_step_in_integers_takes_few_nodes(op_type: str, nodes: int) -> None:
    """Each costs 0.3 µs and more; nodes that only give a value another shape or name are not computed."""
    free = ("Reshape", "Identity")
    model = in_integers(cell(op_type, linear_before_reset=1) if op_type == "GRU" else cell(op_type))
    assert sum(name not in free for name in operators(model)) <= nodes


@pytest.mark.parametrize("reset_after", [0, 1])
def test_gru_128_takes_at_most_75_kb(reset_after: int) -> None:
    model = cell("GRU", linear_before_reset=reset_after)
    assert len(ir.to_proto(model).SerializeToString()) > 250_000
    assert len(ir.to_proto(in_integers(model)).SerializeToString()) < 75_000


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "crnn"])
def test_no_large_product_of_a_network_stays_in_float(name: str) -> None:
    wanted = {"dynamic-int8": "DynamicQuantize", "int8": "MatMulIntegerToFloat", "int4": "MatMulNBits"}
    for scheme, prefix in wanted.items():
        model = ir.from_proto(_proto(lowered(name).onnx(scheme)[0]))
        assert any(op_type.startswith(prefix) for op_type in operators(model))
        large = [
            node.name for node in model.graph.all_nodes()
            if node.op_type in ("MatMul", "LSTM", "GRU", "RNN") and array_of(node.inputs[1]).size > 256
        ]  # fmt: skip
        assert not large, f"{name}, {scheme}"


def test_static_products_read_what_they_were_calibrated_for() -> None:
    """Their graph, by the formulas of its operators, gives what ONNX Runtime gives."""
    for name in ("gru", "lstm"):
        item = lowered(name)
        content, spec = item.onnx("int8")
        fed = {tensor.name: item.streams[0][:1][None] for tensor in spec.inputs}
        fed |= {state.input: normal(*state.shape, seed=4, scale=0.5) for state in spec.states}
        found, expected = invoke_onnx(content)(fed), evaluate(ir.from_proto(_proto(content)), fed)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, atol=0.03, err_msg=f"{name}, {key}")
            assert np.mean(np.abs(found[key] - value)) < 0.002
    assert SCHEMES["int8"].calibrated


@pytest.mark.parametrize("scheme", ["dynamic-int8", "int8"])
def test_files_open_where_onnx_runtime_has_to_be_told_to_be_precise(scheme: str) -> None:
    """There it rewrites int8 weights and their zero points as uint8, and refuses a file in which two share one."""
    import onnxruntime

    for name in ("lstm", "gru", "rnn", "crnn"):
        content, spec = lowered(name).onnx(scheme)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        fed = {tensor.name: lowered(name).streams[0][: tensor.shape[1]][None] for tensor in spec.inputs}
        fed |= {state.input: state.initial_array() for state in spec.states}
        for value, expected in zip(session.run(None, fed), invoke_onnx(content)(fed).values(), strict=True):
            np.testing.assert_allclose(value, expected, atol=1e-3)


def _proto(content: bytes) -> Any:
    import onnx

    return onnx.load_from_string(content)

"""Quantization of ONNX files: one scale a state, scales by column, ranges from real trajectories, sizes, losses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from keras import layers
from onnx.numpy_helper import to_array

from edgernn.errors import UsageError
from edgernn.quantize.calibrate import MOST_STEPS, observe
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.graph import Builder, array_of
from edgernn.quantize.integers import half_weights, integer_products
from edgernn.quantize.ranges import FIXED, choose, everything, products_and_states, state_values
from edgernn.quantize.rules.pooling import STATISTICS
from edgernn.quantize.schemes import SCHEMES, scheme_named
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import invoke_onnx
from edgernn.quantize.streaming import StepGraph, stream
from edgernn.quantize.to_onnx import to_onnx
from tests.quantize.lowering import NETWORKS, lowered, snr_db
from tests.quantize.networks import Array, chain, randomized


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("scheme", "least_db"), [("float32", 100), ("float16", 50), ("dynamic-int8", 28), ("int8", 20)]
)
def test_each_scheme_loses_as_little_as_it_should(name: str, scheme: str, least_db: float) -> None:
    content, spec = lowered(name).onnx(scheme)
    assert snr_db(name, content, "onnx", spec) > least_db
    assert least_db > SCHEMES[scheme].tolerance.min_snr_db, "a sound conversion passes with room to spare"


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_files_shrink(name: str) -> None:
    size = {scheme: len(lowered(name).onnx(scheme)[0]) for scheme in SCHEMES}
    assert size["float16"] < 0.65 * size["float32"]
    assert size["dynamic-int8"] < 0.5 * size["float32"]
    assert size["int8"] < 0.6 * size["float32"]


def test_large_files_shrink_to_a_quarter() -> None:
    model = randomized(chain(layers.GRU(256, return_sequences=True), features=64))
    step = stream(from_keras(model))
    kept = replace(step, model=simplify(step.model))
    apart = replace(step, model=simplify(decompose_cells(step.model)))
    size = {
        name: len(to_onnx(kept, apart, kept.spec(), SCHEMES[name], None)[0]) for name in ("float32", "dynamic-int8")
    }
    assert size["dynamic-int8"] < 0.27 * size["float32"]


# int8: states


def constants(proto: onnx.ModelProto) -> dict[str, Any]:
    return {item.name: to_array(item) for item in proto.graph.initializer}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_has_one_quantization_in_and_out(name: str) -> None:
    content, spec = lowered(name).onnx("int8")
    proto = onnx.load_from_string(content)
    known = constants(proto)
    kinds = {item.name: item.type.tensor_type.elem_type for item in (*proto.graph.input, *proto.graph.output)}
    makers = {output: node for node in proto.graph.node for output in node.output}
    quantized = [state for state in spec.states if state.quant]
    assert [state.name for state in spec.states if not state.quant] == [
        state.name for state in spec.states if STATISTICS in state.name or state.name.endswith(".c")
    ]
    assert quantized
    for state in quantized:
        assert state.dtype == "uint8"
        assert state.quant is not None
        assert kinds[state.input] == kinds[state.output] == onnx.TensorProto.UINT8
        maker = makers[state.output]
        while maker.op_type in ("Identity", "Slice", "Reshape"):
            maker = makers[maker.input[0]]
        readers = [node for node in proto.graph.node if state.input in node.input]
        assert maker.op_type == "QuantizeLinear"
        assert readers
        for node in (maker, *(node for node in readers if node.op_type == "DequantizeLinear")):
            assert float(known[node.input[1]]) == pytest.approx(state.quant.scale)
            assert int(known[node.input[2]]) == state.quant.zero_point
        real = state.quant.dequantize(state.initial_array())
        np.testing.assert_array_equal(real, np.full(state.shape, state.initial, np.float32))


def test_a_window_carries_its_past_bit_for_bit() -> None:
    """Whatever bits the past has: a step moves them one frame on, and changes none."""
    content, spec = lowered("delayed").onnx("int8")
    random = np.random.default_rng(3)
    state = {item.input: random.integers(0, 256, item.shape).astype(item.dtype) for item in spec.states}
    fed = {item.name: random.standard_normal(item.shape).astype(np.float32) for item in spec.inputs}
    result = invoke_onnx(content)({**fed, **state})
    carried = [item for item in spec.states if item.name.rpartition(".")[2] in ("past", "delay")]
    assert carried
    moved = 0
    for item in carried:
        old, new = state[item.input], result[item.output]
        kept = item.shape[1] - spec.frames_per_step
        if kept > 0:
            np.testing.assert_array_equal(new[:, :kept], old[:, -kept:])
            moved += kept
    assert moved, "no past is longer than a step: this would show nothing"


def test_real_values_that_left_come_back_the_same() -> None:
    """What a state is read as in the next step is what it was written as: there is no second rounding."""
    content, spec = lowered("lstm").onnx("int8")
    invoke = invoke_onnx(content)
    state = {item.input: item.initial_array() for item in spec.states}
    for frame in lowered("lstm").streams[0][:5]:
        result = invoke({spec.inputs[0].name: frame[None, None], **state})
        for item in spec.states:
            levels = result[item.output]
            if item.quant is None:  # the cell state stays in float
                assert item.name.endswith(".c")
                state[item.input] = levels
                continue
            np.testing.assert_array_equal(item.quant.quantize(item.quant.dequantize(levels), "uint8"), levels)
            state[item.input] = levels
    assert any(len(np.unique(levels)) > 5 for levels in state.values())


# weights


def product(matrix: Array, bias: Array | None = None) -> ir.Model:
    builder = Builder("product")
    value = builder.op("MatMul", builder.input("x", (1, matrix.shape[0])), builder.constant(matrix, "kernel"))
    builder.output(value if bias is None else builder.op("Add", value, builder.constant(bias, "bias")), "y")
    return builder.finish()


def test_weights_are_quantized_by_column() -> None:
    random = np.random.default_rng(4)
    matrix = (random.normal(size=(32, 16)) * np.logspace(-3, 2, 16)).astype(np.float32)
    matrix[:, 7] = 0.0
    model = integer_products(product(matrix))
    (node,) = model.graph
    levels, scales = array_of(node.inputs[1]), array_of(node.inputs[2])
    assert levels.dtype == np.int8
    assert (levels.shape, scales.shape) == ((32, 16), (16,))
    used = [column for column in range(16) if column != 7]
    assert (np.abs(levels[:, used].astype(int)).max(axis=0) == 127).all(), "each column uses all levels"
    assert not levels[:, 7].any()
    assert (np.abs(levels * scales - matrix) <= scales / 2 * 1.0001).all()


def test_a_bias_goes_into_the_product_and_gives_the_same() -> None:
    random = np.random.default_rng(5)
    matrix, bias = random.normal(size=(32, 16)).astype(np.float32), random.normal(size=16).astype(np.float32)
    model = integer_products(product(matrix, bias))
    assert [node.op_type for node in model.graph] == ["DynamicQuantizeMatMul"]
    x = random.normal(size=(1, 32)).astype(np.float32)
    found = invoke_onnx(ir.to_proto(model).SerializeToString())({"x": x})["y"]
    np.testing.assert_allclose(found, x @ matrix + bias, atol=0.3)
    assert np.abs(found - x @ matrix).max() > 0.3, "the bias matters here"


def test_small_products_stay_in_float() -> None:
    model = integer_products(product(np.ones((4, 4), np.float32)))
    assert [node.op_type for node in model.graph] == ["MatMul"]


def test_half_weights_are_rounded_to_float16_and_nothing_else() -> None:
    matrix = np.random.default_rng(6).normal(size=(32, 16)).astype(np.float32)
    bias = np.linspace(0, 1, 16, dtype=np.float32)
    model = half_weights(product(matrix, bias))
    stored = {array_of(value).dtype.str: array_of(value) for value in model.graph.initializers.values()}
    assert set(stored) == {"<f2", "<f4"}
    np.testing.assert_array_equal(stored["<f2"], matrix.astype(np.float16))
    np.testing.assert_array_equal(stored["<f4"], bias)
    x = np.eye(1, 32, dtype=np.float32)
    found = invoke_onnx(ir.to_proto(model).SerializeToString())({"x": x})["y"]
    np.testing.assert_array_equal(found[0], matrix.astype(np.float16)[0].astype(np.float32) + bias)


def test_every_recurrent_operator_computes_in_integers() -> None:
    for name in ("lstm", "gru", "rnn"):
        for scheme, wanted in (("dynamic-int8", "DynamicQuantizeMatMul"), ("int8", "MatMulIntegerToFloat")):
            proto = onnx.load_from_string(lowered(name).onnx(scheme)[0])
            known = constants(proto)
            operators = {node.op_type for node in proto.graph.node}
            assert wanted in operators
            assert not {"LSTM", "GRU", "RNN"} & operators
            large = [
                node.name for node in proto.graph.node if node.op_type == "MatMul" and known[node.input[1]].size > 256
            ]
            assert not large, f"{name}, {scheme}"


# ranges


def integrator() -> tuple[StepGraph, Any]:
    """h[t] = 0.9 h[t - 1] + x[t]: its state goes ten times as far as its input."""
    model = chain(layers.SimpleRNN(1, activation="linear", use_bias=False, return_sequences=True), features=1)
    model.set_weights([np.array([[1.0]]), np.array([[0.9]])])
    step = stream(from_keras(model))
    return replace(step, model=simplify(decompose_cells(step.model))), model


def test_ranges_are_those_of_real_trajectories() -> None:
    step, _ = integrator()
    ranges = observe(step, [[np.ones((200, 1), np.float32)]])
    entering, leaving = (value.name or "" for value in state_values(step)[0])
    assert ranges["frames"] == (1.0, 1.0)
    assert ranges[leaving][1] == pytest.approx(10.0, rel=1e-3)
    assert ranges[entering] == pytest.approx((0.0, 10.0), rel=1e-3), "it begins from the reset"
    both = observe(step, [[np.ones((200, 1), np.float32)], [-2 * np.ones((3, 1), np.float32)]])
    assert both[leaving] == pytest.approx((-2 * (1 + 0.9 + 0.81), 10.0), rel=1e-3), "each stream begins from the reset"
    (params,) = {*choose(step, both, [*state_values(step)[0]]).values()}
    assert params.dequantize(np.array([-128, 127])) == pytest.approx([-5.42, 10.0], abs=params.scale)


def test_observing_ends_after_enough_steps() -> None:
    step, _ = integrator()
    late = np.full((3, 1), 100.0, np.float32)
    ranges = observe(step, [[np.ones((MOST_STEPS, 1), np.float32)], [late]])
    assert ranges["frames"] == (1.0, 1.0)


def test_states_that_wait_are_observed_at_their_initial_value() -> None:
    model = randomized(chain(layers.Conv1D(4, 6), layers.GRU(3, return_sequences=True)))
    step = stream(from_keras(model))
    step = replace(step, model=simplify(decompose_cells(step.model)))
    entering = {state.name: value for state, (value, _) in zip(step.states, state_values(step), strict=True)}
    state = next(name for name in entering if name.endswith(".h"))
    ranges = observe(step, [[np.ones((5, 6), np.float32)]])  # not long enough for the window
    assert ranges[entering[state].name or ""] == (0.0, 0.0)


@pytest.mark.parametrize("name", NETWORKS)
def test_values_that_must_agree_share_a_scale(name: str) -> None:
    item = lowered(name)
    for values in (everything(item.taken_apart), products_and_states(item.taken_apart)):
        params = choose(item.taken_apart, item.ranges, values)
        assert set(params) == values
        for entering, leaving in state_values(item.taken_apart):
            if entering in params:  # else it stays in float, and only what else reads it is quantized
                assert params[entering] == params[leaving]
        for value, chosen in params.items():
            assert -128 <= chosen.zero_point <= 127, f"zero must be exact for {value.name}"
            assert chosen.scale > 0


def test_fixed_scales_are_kept_inside_tflite() -> None:
    item = lowered("gru")
    params = choose(item.taken_apart, item.ranges, everything(item.taken_apart))
    gates = [value for value in params if (node := value.producer()) is not None and node.op_type == "Sigmoid"]
    assert gates
    assert {params[value] for value in gates} == {FIXED["Sigmoid"]}


def test_statistics_over_all_frames_stay_in_float() -> None:
    step = lowered("crnn").taken_apart
    for chosen in (everything(step), products_and_states(step)):
        names = {value.name or "" for value, _ in state_values(step) if value in chosen}
        assert names, "other states are quantized"
        assert not [name for name in names if STATISTICS in name]
    content, spec = lowered("crnn").onnx("int8")
    (mean,) = (state for state in spec.states if state.name.endswith(".mean"))
    state = {item.input: item.initial_array() for item in spec.states}
    fed = {item.name: np.zeros(item.shape, np.float32) for item in spec.inputs}
    state[mean.input] = fine = np.linspace(0.001, 0.002, mean.shape[-1], dtype=np.float32).reshape(mean.shape)
    state[next(item.input for item in spec.states if item.name.endswith(".count"))][:] = 1e6
    after = invoke_onnx(content)({**fed, **state})[mean.output]
    assert np.abs(after - fine).max() < 1e-5, "a mean over a million frames is not rounded to 8 bits"


def test_a_value_that_never_moves_has_a_scale() -> None:
    step, _ = integrator()
    ranges = observe(step, [[np.zeros((20, 1), np.float32)]])
    for params in choose(step, ranges, everything(step)).values():
        assert params.scale > 0


# schemes


def test_schemes_are_found_by_name() -> None:
    assert [scheme_named(name).name for name in SCHEMES] == list(SCHEMES)
    assert [name for name, scheme in SCHEMES.items() if scheme.calibrated] == ["int8"]
    with pytest.raises(UsageError, match="no quantization 'int4'; choose one of float32, float16, dynamic-int8, int8"):
        scheme_named("int4")


def test_coarser_schemes_allow_more() -> None:
    tolerances = [scheme.tolerance for scheme in SCHEMES.values()]
    for finer, coarser in pairwise(tolerances):
        assert finer.max_error < coarser.max_error
        assert finer.min_snr_db > coarser.min_snr_db > 0
    assert tolerances[0].max_error <= 1e-4

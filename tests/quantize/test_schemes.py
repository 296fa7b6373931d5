"""Quantization of ONNX files: one scale a state, scales by column, ranges from real trajectories, sizes, losses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from keras import layers

from edgernn.errors import UsageError
from edgernn.quantize.calibrate import MOST_STEPS, observe
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.ranges import choose, product_inputs, state_values
from edgernn.quantize.schemes import SCHEMES, scheme_named
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import invoke_onnx
from edgernn.quantize.streaming import StepGraph, stream
from edgernn.quantize.to_onnx import to_onnx
from tests.quantize.lowering import NETWORKS, lowered, snr_db
from tests.quantize.networks import chain, randomized


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("scheme", "least_db"),
    [("float32", 100), ("float16", 50), ("weights-int8", 38), ("dynamic-int8", 36), ("int8", 33), ("int4", 13)],
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


def test_states_are_float_in_every_scheme() -> None:
    """Products read them in eight bits; nothing adds up in eight."""
    for name in NETWORKS:
        for scheme in SCHEMES:
            for state in lowered(name).onnx(scheme)[1].states:
                assert (state.dtype, state.quant) == ("float32", None)


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
    (params,) = choose(both, state_values(step)[0][1:]).values()
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
def test_scales_cover_what_was_observed_and_zero(name: str) -> None:
    item = lowered(name)
    values = product_inputs(item.taken_apart)
    params = choose(item.ranges, values)
    assert set(params) == values
    for value, chosen in params.items():
        assert -128 <= chosen.zero_point <= 127, f"zero must be exact for {value.name}"
        levels = chosen.dequantize(np.array([-128, 127]))
        low, high = item.ranges[value.name or ""]
        assert levels[0] - chosen.scale <= low <= high <= levels[1] + chosen.scale


def test_in_onnx_what_products_read_is_quantized_and_nothing_else() -> None:
    step = lowered("gru").taken_apart
    read = {node.inputs[0] for node in step.model.graph if node.op_type == "MatMul"}
    assert product_inputs(step) < read, "the last layer has few weights, and stays in float"


def test_statistics_over_all_frames_stay_in_float() -> None:
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
    for params in choose(ranges, step.model.graph.inputs).values():
        assert params.scale > 0


# schemes


def test_schemes_are_found_by_name() -> None:
    assert [scheme_named(name).name for name in SCHEMES] == list(SCHEMES)
    assert [name for name, scheme in SCHEMES.items() if scheme.calibrated] == ["int8"]
    with pytest.raises(UsageError, match="no quantization 'int5'; choose one of float32, float16, weights-int8"):
        scheme_named("int5")


def test_coarser_schemes_allow_more() -> None:
    tolerances = [scheme.tolerance for scheme in SCHEMES.values()]
    for finer, coarser in pairwise(tolerances):
        assert finer.max_error < coarser.max_error
        assert finer.min_snr_db > coarser.min_snr_db > 0
    assert tolerances[0].max_error <= 1e-4

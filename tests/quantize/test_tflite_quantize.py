"""TFLite files quantized here: what computes in what, weights in 4 bits, files without floats, and drift."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import layers

from edgernn.errors import ConversionError
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.micro import micro_operators
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.stepping import invoke_tflite, steps
from edgernn.quantize.streaming import stream
from edgernn.quantize.target import Target
from edgernn.quantize.tflite_graph import TFLiteGraph
from edgernn.quantize.tflite_kernels import INTEGER_KERNELS, version_for
from edgernn.quantize.tflite_kinds import decide
from edgernn.quantize.tflite_write import block_scales, least_squares_scales, nibbles
from edgernn.quantize.to_tflite import plain_tflite, quantized_tflite
from tests.benchmarks.drift import OURS, drift_of, pretrained_gru, variants
from tests.benchmarks.plain_step import plain_int8
from tests.quantize.lowering import lowered, snr_db
from tests.quantize.one_operator import file_of

INTEGER_ONLY = Target("integer-only")


@given(arrays(np.int8, st.integers(1, 9), elements=st.integers(-8, 7)))
def test_two_levels_make_a_byte_the_first_in_its_low_half(levels: np.ndarray) -> None:
    packed = np.frombuffer(nibbles(levels), np.uint8)
    halves = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[: len(levels)]
    np.testing.assert_array_equal(np.where(halves > 7, halves.astype(int) - 16, halves), levels)


def test_cutting_the_largest_weights_loses_less_than_rounding_all_others_coarsely() -> None:
    weights = np.random.default_rng(0).standard_t(4, (8, 256)).astype(np.float32)
    weights[3] = 0.0
    peaks = np.maximum(np.abs(weights).max(axis=1), 1e-12)
    scales = np.asarray(least_squares_scales(weights, 0).scale)
    assert (scales <= peaks / 7 * 1.0001).all()

    def error(scale: np.ndarray) -> np.ndarray:
        levels = np.clip(np.rint(weights / scale[:, None]), -8, 7)
        total: np.ndarray = ((levels * scale[:, None] - weights) ** 2).sum(axis=1)
        return total

    assert (error(scales) <= error(peaks / 7) * 1.0001).all()
    assert error(scales).sum() < 0.8 * error(peaks / 7).sum()


def test_blocks_have_scales_of_their_own_where_there_are_whole_ones() -> None:
    weights = np.random.default_rng(0).standard_t(4, (8, 256)).astype(np.float32)
    scales = block_scales(weights)
    assert scales is not None
    assert scales.scale.shape == (8, 8)
    np.testing.assert_array_equal(scales.scale.astype(np.float16).astype(np.float32), scales.scale)

    def error(scale: np.ndarray) -> float:
        return float(((np.clip(np.rint(weights / scale), -8, 7) * scale - weights) ** 2).sum())

    by_row = np.asarray(least_squares_scales(weights, 0).scale)[:, None]
    assert error(np.repeat(scales.scale, 32, axis=1)) < 0.8 * error(by_row)
    assert block_scales(weights[:, :40]) is None
    assert block_scales(weights * 1e-4) is None, "which float16 would not hold"


def test_sixteen_bits_are_versions_of_their_own() -> None:
    assert {name: version_for(name, "int16") for name in ("ADD", "MUL", "SUB", "TANH")} == {
        "ADD": 3, "MUL": 4, "SUB": 5, "TANH": 3,
    }  # fmt: skip
    assert version_for("FULLY_CONNECTED", "int8", written=5) == 5, "what the float one needs already stays"
    assert set(INTEGER_KERNELS.values()) == {"int8", "int16"}


def test_a_slope_is_found_with_its_error() -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(-1, 1, (5000, 2)).astype(np.float32)
    steady = truth + random.uniform(0.0, 0.02, truth.shape).astype(np.float32)
    growing = steady + np.linspace(0, 0.05, 5000, dtype=np.float32)[:, None]
    flat, drift = drift_of(steady, truth), drift_of(growing, truth)
    assert abs(flat.slope) < 3 * flat.slope_error
    assert drift.slope == pytest.approx(0.01, rel=0.02)
    assert drift.slope > 10 * drift.slope_error
    assert flat.worst_500 <= flat.worst <= 0.02


# whole files


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "delayed"])
def test_an_integer_only_file_has_no_float(name: str) -> None:
    content, spec = lowered(name).tflite("int8", INTEGER_ONLY)
    graph = TFLiteGraph(content)
    assert {graph.dtype(tensor) for tensor in range(graph.count())} <= {"int8", "int16", "int32"}
    assert "DEQUANTIZE" not in {graph.name(op) for op in graph.operators}
    assert {item.dtype for item in (*spec.inputs, *spec.outputs)} == {"int8"}
    for state in spec.states:
        assert state.dtype == ("int16" if state.name.endswith((".h", ".c")) else "int8"), state.name
    assert snr_db(name, content, "tflite", spec) > 28


@pytest.mark.slow
def test_masked_words_and_a_normalization_need_no_float() -> None:
    content, spec = lowered("words").tflite("int8", INTEGER_ONLY)
    graph = TFLiteGraph(content)
    assert {graph.dtype(tensor) for tensor in range(graph.count())} == {"bool", "int8", "int16", "int32"}
    assert snr_db("words", content, "tflite", spec) > 36


@pytest.mark.slow
def test_quiet_frames_are_normalized_without_floats_too() -> None:
    """Their variance is a thousandth of the loud ones', where LiteRT's own inverse root of 16 bits gives 0 dB."""
    entered = keras.Input((None, 32))
    keras.utils.set_random_seed(0)
    value = layers.Dense(32)(entered)
    plain, spec = plain_tflite(stream(from_keras(keras.Model(entered, layers.LayerNormalization(epsilon=1e-5)(value)))))
    frames = np.random.default_rng(0).standard_normal((160, 32)).astype(np.float32)
    frames[80:] /= 10
    content, integers = quantized_tflite(plain, spec, SCHEMES["int8"], [(frames,)], INTEGER_ONLY)
    assert all(item["kernel"] for item in micro_operators(content))
    truth, found = (
        np.concatenate([taken[item.outputs[0].name][0] for taken in steps(invoke_tflite(file), item, [frames])])
        for file, item in ((plain, spec), (content, integers))
    )
    for part, least in ((slice(80), 35), (slice(80, None), 17)):
        noise = ((found - truth)[part] ** 2).mean()
        assert 10 * np.log10((truth[part] ** 2).mean() / noise) > least


def test_what_makes_floats_of_something_else_is_refused_too() -> None:
    with pytest.raises(ConversionError, match="the operator CAST has no integer form in TFLite"):
        decide(TFLiteGraph(file_of("CAST", "bool to float32")), [], "static", integer_only=True)


@pytest.mark.slow
def test_what_has_no_integer_form_is_refused_by_layer_and_operator() -> None:
    with pytest.raises(ConversionError, match=r"global_average_pooling1d.*the operator DIV has no integer form"):
        lowered("crnn").tflite("int8", INTEGER_ONLY)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["dynamic-int8", "int4"])
def test_a_step_of_several_frames_has_each_matrix_once(scheme: str) -> None:
    content, spec = lowered("gru", frames_per_step=4).tflite(scheme)
    graph = TFLiteGraph(content)
    read = [op.inputs[1] for op in graph.operators if graph.name(op) == "FULLY_CONNECTED"]
    assert (len(read), len(set(read))) == (2 + 4 * 2 + 1, 5), "of the input, of the state in each frame, of the output"
    assert len(content) < len(lowered("gru").tflite(scheme)[0]) + 12_000
    assert snr_db("gru", content, "tflite", spec) > 10


@pytest.mark.slow
def test_weights_of_four_bits_have_a_scale_for_each_block() -> None:
    content, spec = lowered("words").tflite("int4")
    graph = TFLiteGraph(content)
    scales = [graph.shape(tensor) for tensor in range(graph.count()) if graph.dtype(tensor) == "float16"]
    assert sorted(scales) == [(32, 1), (32, 1), (64, 1), (64, 1)], "products of 32 inputs; the last one has 26"
    assert snr_db("words", content, "tflite", spec) > 20
    assert snr_db("words", graph.content(), "tflite", spec) > 20, "written again, they are still there"


@pytest.mark.slow
def test_cells_are_wide_and_chains_of_products_are_not() -> None:
    content, _ = lowered("crnn").tflite("int8")
    graph = TFLiteGraph(content)
    by_name = {graph.name(op): [graph.dtype(t) for t in (*op.inputs[:2], *op.outputs)] for op in graph.operators}
    assert by_name["CONV_2D"] == ["int8", "int8", "int8"]
    assert by_name["TANH"] == by_name["LOGISTIC"] == ["float32", "float32"]
    assert by_name["DIV"] == ["float32", "float32", "float32"], "a mean over all frames is not rounded"


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:\s*Warning. tf.lite.Interpreter is deprecated")  # the stock converter's own
def test_trained_int8_does_not_drift_and_loses_a_third_of_what_the_stock_converter_loses() -> None:
    network = pretrained_gru()
    truth = network.model.predict(network.frames[None], verbose=0)[0]
    stock = drift_of(plain_int8(network.model, network.calibration)(network.frames[:500]), truth[:500])
    found = variants(network, {name: OURS[name] for name in ("int8", "int8, integer-only")})
    for name, variant in found.items():
        drift = drift_of(variant.run(network.frames), truth)
        assert drift.slope < 2 * drift.slope_error, f"{name} grows by {drift.slope} ± {drift.slope_error}"
        assert drift.worst_500 <= stock.worst_500 / 3, name

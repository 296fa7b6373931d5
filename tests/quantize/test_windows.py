"""Windows as other exporters write them, against ONNX' own evaluator; and what all of them become in TFLite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx_ir as ir
import pytest
from keras import layers

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.graph import Builder
from edgernn.quantize.oracle import KerasOracle
from edgernn.quantize.parity import expected_outputs, measure
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.simplify import simplify
from edgernn.quantize.source import load_source
from edgernn.quantize.stepping import invoke_onnx, invoke_tflite, open_tflite, steps
from edgernn.quantize.streaming import StepGraph, stream
from edgernn.quantize.to_tflite import plain_tflite, quantized_tflite
from tests.quantize.networks import Array, frames, randomized, reference, streams_for
from tests.quantize.test_resampling import u_net
from tests.quantize.test_time_frequency import spectral

CHANNELS, BANDS, LENGTH = 4, 6, 36
Emit = Callable[[Builder, ir.Value], ir.Value]


def noise(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def over_time(*emits: Emit) -> ir.Model:
    """Return a sequence graph in which each function sees (batch, channels, time), as PyTorch has it."""
    graph = Builder("windows")
    value = graph.op("Transpose", graph.input("frames", ["batch", "time", CHANNELS]), perm=[0, 2, 1])
    for index, emit in enumerate(emits):
        graph.output(graph.op("Transpose", emit(graph, value), perm=[0, 2, 1]), f"y{index}")
    return graph.finish()


def over_both(*emits: Emit) -> ir.Model:
    """The same with (batch, channels, bands, time): time is the last of two axes."""
    graph = Builder("planes")
    value = graph.op("Transpose", graph.input("frames", ["batch", "time", BANDS, CHANNELS]), perm=[0, 3, 2, 1])
    for index, emit in enumerate(emits):
        graph.output(graph.op("Transpose", emit(graph, value), perm=[0, 3, 2, 1]), f"y{index}")
    return graph.finish()


def operator(op_type: str, *weights: Any, **attributes: Any) -> Emit:
    def emit(graph: Builder, value: ir.Value) -> ir.Value:
        constants = [None if array is None else graph.constant(np.asarray(array), "weights") for array in weights]
        return graph.op(op_type, value, *constants, **attributes)

    return emit


NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
OVER_TIME: dict[str, Emit] = {
    "pads_unequal": operator("Conv", noise(3, 4, 5), noise(3), pads=[1, 2]),
    "pads_beyond_the_window": operator("Conv", noise(3, 4, 2), pads=[3, 4]),
    "same_lower": operator("Conv", noise(3, 4, 4), auto_pad="SAME_LOWER"),
    "same_lower_stride": operator("Conv", noise(3, 4, 5), auto_pad="SAME_LOWER", strides=[2]),
    "conv_groups": operator("Conv", noise(6, 2, 3), pads=[1, 1], group=2),
    "average_counts_padding": operator("AveragePool", kernel_shape=[4], pads=[2, 1], count_include_pad=1),
    "average": operator("AveragePool", kernel_shape=[4], pads=[2, 1]),
    "average_stride": operator("AveragePool", kernel_shape=[4], pads=[1, 1], strides=[2]),
    "max_pads": operator("MaxPool", kernel_shape=[5], pads=[2, 2], strides=[2]),
    "max_dilated": operator("MaxPool", kernel_shape=[3], dilations=[2], pads=[2, 2]),
    "max_ceil_of_nothing": operator("MaxPool", kernel_shape=[2], strides=[2], ceil_mode=1),
    "spread_groups": operator("ConvTranspose", noise(4, 3, 5), noise(6), strides=[2], group=2),
    "spread_cropped": operator("ConvTranspose", noise(4, 3, 6), strides=[3], pads=[2, 1], output_padding=[1]),
    "spread_cut_short": operator("ConvTranspose", noise(4, 3, 4), strides=[2], pads=[3, 3]),
    "resize": operator("Resize", None, np.array([1, 1, 3], np.float32), **NEAREST),
    "resize_half_pixel": operator("Resize", None, np.array([1, 2, 2], np.float32), mode="nearest"),
    "pad_features": operator("Pad", np.array([0, 1, 2, 0, 2, 1])),
    "pad_negative": operator("Pad", np.array([0, 0, -2, 0, 0, -1])),
    "pad_with_ones": operator("Pad", np.array([0, 1, 0, 0, 0, 0]), np.float32(1.0)),
    "chomp": lambda graph, value: operator("Slice", [0], [-3], [2])(
        graph, operator("Conv", noise(4, 4, 4), pads=[3, 3])(graph, value)
    ),
    "cut_both": operator("Slice", [1, 2], [3, -1], [1, 2]),
}
OVER_BOTH: dict[str, Emit] = {
    "conv": operator("Conv", noise(3, 4, 3, 5), noise(3), pads=[1, 2, 2, 2], strides=[2, 1]),
    "conv_same": operator("Conv", noise(3, 4, 2, 3), auto_pad="SAME_UPPER", dilations=[2, 1]),
    "depthwise": operator("Conv", noise(8, 1, 3, 3), pads=[0, 1, 1, 1], group=4),
    "max_uneven": operator("MaxPool", kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1]),
    "average_uneven": operator("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 1]),
    "average_counted": operator(
        "AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 1], count_include_pad=1
    ),
}


def assert_as_evaluated(model: ir.Model) -> StepGraph:
    """Step a graph and compare each output with the evaluator over the whole sequence."""
    graph = stream(model)
    spec = graph.spec()
    whole = noise(LENGTH // spec.frames_per_step * spec.frames_per_step, *spec.inputs[0].shape[2:])
    truth = on_whole_sequences(model, whole)
    content = ir.to_proto(simplify(graph.model)).SerializeToString()
    assert_stepped(invoke_onnx(content), spec, whole, truth)
    return graph


def on_whole_sequences(model: ir.Model, whole: Array) -> list[Array]:
    """Ask ONNX' own evaluator; and ONNX Runtime for what that gets wrong (groups of ConvTranspose, negative pads)."""
    fed = {"frames": whole[None]}
    try:
        return reference(model, fed)
    except ValueError:
        return list(invoke_onnx(ir.to_proto(model).SerializeToString())(fed).values())


def assert_stepped(invoke: Any, spec: Any, whole: Array, truth: list[Array]) -> None:
    taken = list(steps(invoke, spec, [whole]))
    for item, delay, expected in zip(spec.outputs, spec.output_delays, truth, strict=True):
        found = np.concatenate([step[item.name][0] for step in taken])[delay:]
        assert 0 < len(found) <= expected.shape[1]
        np.testing.assert_allclose(found, expected[0, : len(found)], rtol=1e-4, atol=1e-4, err_msg=item.name)


@pytest.mark.parametrize("name", OVER_TIME)
def test_a_window_over_time_is_what_the_evaluator_says(name: str) -> None:
    assert_as_evaluated(over_time(OVER_TIME[name]))


@pytest.mark.parametrize("name", OVER_BOTH)
def test_a_window_over_two_axes_is_what_the_evaluator_says(name: str) -> None:
    assert_as_evaluated(over_both(OVER_BOTH[name]))


def test_a_summary_over_all_axes_is_what_the_evaluator_says() -> None:
    for op_type in ("GlobalAveragePool", "GlobalMaxPool"):
        graph = Builder("summary")
        value = graph.op("Transpose", graph.input("frames", ["batch", "time", BANDS, CHANNELS]), perm=[0, 3, 1, 2])
        graph.output(graph.op("Reshape", graph.op(op_type, value), graph.constant([0, -1])), "y")
        model = graph.finish()
        step = stream(model)
        whole = noise(12, BANDS, CHANNELS)
        content = ir.to_proto(simplify(step.model)).SerializeToString()
        for number, found in enumerate(steps(invoke_onnx(content), step.spec(), [whole])):
            truth = reference(model, {"frames": whole[None, : number + 1]})[0]
            np.testing.assert_allclose(found["y"], truth, rtol=1e-5, atol=1e-5)


def test_a_file_over_time_and_frequency_is_read(tmp_path: Path) -> None:
    """Of two axes that a convolution goes along, time is the open one; padding may depend on the length."""
    path = tmp_path / "planes.onnx"
    ir.save(over_both(operator("Conv", noise(3, 4, 3, 4), auto_pad="SAME_UPPER", strides=[2, 2])), path)
    graph = stream(load_source(path).graph())
    assert graph.frames_per_step == 2
    whole = noise(LENGTH, BANDS, CHANNELS)
    truth = on_whole_sequences(ir.load(path), whole)
    assert_stepped(invoke_onnx(ir.to_proto(simplify(graph.model)).SerializeToString()), graph.spec(), whole, truth)


REFUSED: dict[str, tuple[Emit, str]] = {
    "ceil_mode": (operator("MaxPool", kernel_shape=[3], strides=[2], ceil_mode=1), "ceil_mode"),
    "reflected": (operator("Pad", np.array([0, 0, 1, 0, 0, 0]), mode="reflect"), "other than zeros"),
    "padded_with_ones": (operator("Pad", np.array([0, 0, 1, 0, 0, 0]), np.float32(1.0)), "other than zeros"),
    "interpolated": (operator("Resize", None, np.array([1, 1, 2], np.float32), mode="linear"), "not by repeating"),
    "shrunk": (operator("Resize", None, np.array([1, 1, 0.5], np.float32), **NEAREST), "not by repeating"),
    "spread_by_length": (operator("ConvTranspose", noise(4, 3, 3), strides=[2], auto_pad="SAME_UPPER"), "auto_pad"),
    "last_frames": (operator("Slice", [-3], [2**31 - 1], [2]), "first and the last"),
    "split_in_time": (lambda graph, value: graph.ops("Split", [value], 2, {"axis": 2})[0], "into parts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_stream_can_give_is_refused(name: str) -> None:
    emit, reason = REFUSED[name]
    with pytest.raises(UnsupportedLayerError, match=reason) as refusal:
        stream(over_time(emit))
    assert "; " in str(refusal.value), "it says what can be done"


# TFLite


@pytest.mark.slow
@pytest.mark.parametrize(("build", "cases"), [(over_time, OVER_TIME), (over_both, OVER_BOTH)])
def test_all_of_them_are_the_same_in_tflite(build: Callable[..., ir.Model], cases: dict[str, Emit]) -> None:
    """One file of them all, because a conversion takes seconds."""
    model = build(*(emit for name, emit in cases.items() if name != "max_dilated"))
    graph = stream(model)
    content, spec = plain_tflite(replace(graph, model=simplify(graph.model)))
    whole = noise(LENGTH // spec.frames_per_step * spec.frames_per_step, *spec.inputs[0].shape[2:])
    assert_stepped(invoke_tflite(content), spec, whole, on_whole_sequences(model, whole))


def hello_crnn() -> Any:
    return spectral(
        layers.Conv2D(24, (10, 4), strides=(2, 2), padding="same"), layers.BatchNormalization(), layers.ReLU(),
        layers.Reshape((-1, 20 * 24)), layers.GRU(32, return_sequences=True), layers.Dense(6), bands=40,
    )  # fmt: skip


def hello_ds_cnn() -> Any:
    parts = [layers.ZeroPadding2D(((9, 0), (1, 1))), layers.Conv2D(48, (10, 4), strides=(2, 2), use_bias=False)]
    parts += [layers.BatchNormalization(), layers.ReLU()]
    for _ in range(2):
        parts += [layers.ZeroPadding2D(((2, 0), (1, 1))), layers.DepthwiseConv2D(3), layers.BatchNormalization()]
        parts += [layers.ReLU(), layers.Conv2D(48, 1), layers.BatchNormalization(), layers.ReLU()]
    return spectral(*parts, layers.Reshape((-1, 20 * 48)), layers.Dense(6), bands=40)


def wide_u_net() -> Any:
    first = frames(20)
    return keras.Model(first, u_net(2, width=32)(layers.Dense(6)(first)))


def wide(name: str) -> Any:
    model = randomized(WIDE[name]())
    for weight in model.weights:
        if "depthwise" in weight.path and weight.ndim == 4:
            weight.assign(weight * np.sqrt(weight.shape[2]))  # it sums over its window alone, not over the channels
    return model


WIDE = {"crnn": hello_crnn, "ds_cnn": hello_ds_cnn, "u_net": wide_u_net}


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_wide_networks_in_every_scheme(name: str) -> None:
    model = wide(name)
    graph = stream(from_keras(model))
    streams = streams_for(model, 60 * graph.frames_per_step)
    expected = expected_outputs(KerasOracle(model), graph, streams)
    content, spec = plain_tflite(replace(graph, model=simplify(graph.model)))
    names = Counter(operator["op_name"] for operator in open_tflite(content)._get_ops_details())
    assert names["TRANSPOSE"] == 0
    for scheme, least_db in (("float32", 100), ("dynamic-int8", 24), ("int8", 20)):
        made = content, spec
        if scheme != "float32":
            made = quantized_tflite(content, spec, SCHEMES[scheme], [tuple(streams)])
        (distance,) = measure(expected, invoke_tflite(made[0]), made[1], streams)
        assert distance.snr_db > least_db, scheme

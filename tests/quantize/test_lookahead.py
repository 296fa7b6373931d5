"""Windows that see what is to come: the stream waits for it, and then gives exactly what the whole sequence gives."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras import layers

from edgernn.errors import UnsupportedLayerError, UsageError
from edgernn.quantize.bounds import Bounds
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.streaming import stream
from tests.quantize.networks import FEATURES, Array, Build, chain, frames, keras_outputs, randomized, streams_for
from tests.quantize.test_resampling import u_net
from tests.quantize.test_step_shape import lanes_for, outputs
from tests.quantize.test_streaming import assert_streams, stepped

RANDOM = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate)
)


def _inception() -> Any:
    """Branches that look ahead by 0, 1 and 4 frames, and one that looks back."""
    first = frames()
    parts = [layers.Conv1D(3, span, padding="same")(first) for span in (1, 3, 9)]
    parts.append(layers.Conv1D(3, 5, padding="causal")(first))
    return keras.Model(first, layers.LSTM(4, return_sequences=True)(layers.Concatenate()(parts)))


def _residual() -> Any:
    first = frames()
    value = layers.Conv1D(5, 3, padding="same")(first)
    for dilation in (1, 2):
        branch = layers.SeparableConv1D(5, 3, padding="same", dilation_rate=dilation, activation="relu")(value)
        value = layers.Add()([value, layers.BatchNormalization()(branch)])
    return keras.Model(first, layers.GRU(4, return_sequences=True)(value))


def _strides() -> Any:
    """The second stride falls on a sequence of odd length, for which TensorFlow pads otherwise."""
    return chain(
        layers.Conv1D(4, 5, padding="same", strides=2),
        layers.Conv1D(4, 2),
        layers.Conv1D(3, 4, padding="same", strides=2),
    )


def _unequal_crops() -> Any:
    """A skip that is cropped on both sides to meet a valid convolution."""
    first = frames()
    value = layers.Conv1D(FEATURES, 5)(first)
    return keras.Model(first, layers.Add()([value, layers.Cropping1D((1, 3))(first)]))


NETWORKS: dict[str, tuple[Build, int]] = {
    "same": (lambda: chain(layers.Conv1D(4, 3, padding="same")), 1),
    "same_even": (lambda: chain(layers.Conv1D(4, 4, padding="same")), 2),
    "same_dilation": (lambda: chain(layers.Conv1D(4, 3, padding="same", dilation_rate=3)), 3),
    "same_stride": (lambda: chain(layers.Conv1D(4, 5, padding="same", strides=2)), 2),
    "same_stride_beyond_kernel": (lambda: chain(layers.Conv1D(4, 2, padding="same", strides=3)), 0),
    "same_depthwise": (lambda: chain(layers.DepthwiseConv1D(5, padding="same", depth_multiplier=2)), 2),
    "same_separable": (lambda: chain(layers.SeparableConv1D(4, 5, padding="same")), 2),
    "same_groups": (lambda: chain(layers.Conv1D(4, 3, padding="same", groups=2)), 1),
    "same_twice": (lambda: chain(layers.Conv1D(4, 3, padding="same"), layers.Conv1D(4, 7, padding="same")), 4),
    "strides": (_strides, 8),
    "average": (lambda: chain(layers.AveragePooling1D(3, strides=1, padding="same")), 1),
    "average_even": (lambda: chain(layers.AveragePooling1D(4, padding="same")), 0),
    "average_stride": (lambda: chain(layers.AveragePooling1D(5, strides=2, padding="same")), 2),
    "average_long": (lambda: chain(layers.AveragePooling1D(9, strides=1, padding="same")), 4),
    "average_late": (lambda: chain(layers.Conv1D(4, 4), layers.AveragePooling1D(5, strides=1, padding="same")), 5),
    "average_padded": (  # zeros that count before padding that does not: these zeros are a delay line
        lambda: chain(layers.ZeroPadding1D((2, 0)), layers.AveragePooling1D(5, strides=1, padding="same")),
        2,
    ),
    "max": (lambda: chain(layers.MaxPooling1D(3, strides=1, padding="same")), 1),
    "max_stride": (lambda: chain(layers.MaxPooling1D(5, strides=2, padding="same")), 2),
    "max_late": (lambda: chain(layers.Conv1D(4, 4), layers.MaxPooling1D(5, strides=1, padding="same")), 5),
    "max_padded": (lambda: chain(layers.ZeroPadding1D((2, 0)), layers.MaxPooling1D(5, strides=1, padding="same")), 2),
    "max_of_relu": (lambda: chain(layers.ReLU(), layers.MaxPooling1D(3, strides=1, padding="same")), 1),
    "padding_behind": (lambda: chain(layers.ZeroPadding1D((0, 3))), 0),
    "padding_around": (lambda: chain(layers.ZeroPadding1D((1, 2)), layers.Conv1D(4, 4)), 2),
    "cropping_behind": (lambda: chain(layers.Cropping1D((0, 2))), 2),
    "cropping_around": (lambda: chain(layers.Conv1D(4, 5, padding="same"), layers.Cropping1D((1, 2))), 3),
    "unequal_crops": (_unequal_crops, 4),
    "inception": (_inception, 4),
    "residual": (_residual, 4),
}
"""Each with how many frames later its output is than the frame it belongs to."""


@pytest.mark.parametrize("name", NETWORKS)
def test_looking_ahead_is_exact(name: str) -> None:
    build, latency = NETWORKS[name]
    graph = assert_streams(randomized(build()))
    assert graph.spec().latency_frames == latency


@pytest.mark.parametrize("name", ["same", "same_even", "same_dilation", "same_twice", "inception", "residual"])
def test_no_output_waits_longer_than_it_must(name: str) -> None:
    """What frame 30 changes first is what sees it from furthest away; that is given as soon as frame 30 is there."""
    model = randomized(NETWORKS[name][0]())
    graph = stream(from_keras(model))
    calm = np.random.default_rng(4).standard_normal((60, FEATURES)).astype(np.float32)
    struck = calm.copy()
    struck[30] += 1.0

    def first_change(quiet: Array, loud: Array) -> int:
        return int(np.argwhere(np.abs(loud - quiet).max(-1) > 1e-6)[0][0])

    streamed = first_change(*(stepped(graph, [array])[0].reshape(60, -1) for array in (calm, struck)))
    whole = first_change(*(keras_outputs(model, [array[None]])[0][0] for array in (calm, struck)))
    assert streamed == 30
    assert whole + graph.spec().latency_frames == streamed


# summaries


def _shared() -> Any:
    """Attention pooling of frames that look ahead, by scores that do not."""
    first = frames()
    shares = layers.Softmax(axis=1)(layers.Dense(1)(first))
    return keras.Model(first, keras.ops.sum(shares * layers.Conv1D(4, 3, padding="same")(first), axis=1))


def _final_state(*parts: Any) -> Any:
    """Every output and the last state of a cell that becomes a Scan."""
    first = value = frames()
    for part in parts:
        value = part(value)
    cell = layers.LSTMCell(3, activation="softplus")
    every, *states = layers.RNN(layers.StackedRNNCells([cell]), return_sequences=True, return_state=True)(value)
    return keras.Model(first, [every, states[0]])


@pytest.mark.parametrize(
    "build",
    [
        lambda: chain(layers.Conv1D(4, 5, padding="same"), layers.GRU(3, name="bad")),
        lambda: chain(layers.Conv1D(4, 5, padding="same"), layers.GlobalMaxPooling1D(name="bad")),
        lambda: chain(layers.ZeroPadding1D((0, 1)), layers.LSTM(3, name="bad")),
        _shared,
    ],
)
def test_a_summary_of_what_saw_the_end_is_refused(build: Build) -> None:
    with pytest.raises(UnsupportedLayerError, match=r"(bad|sum).*zeros behind the end.*--approximate edges"):
        stream(from_keras(build()))


@pytest.mark.parametrize(
    "build",
    [
        lambda: chain(layers.Conv1D(4, 5, padding="same"), layers.Cropping1D((0, 2)), layers.GRU(3)),
        lambda: chain(layers.Cropping1D((0, 3)), layers.GlobalAveragePooling1D()),
        lambda: chain(layers.Conv1D(4, 4, strides=2), layers.Cropping1D((1, 1)), layers.GlobalMaxPooling1D()),
        lambda: chain(layers.MaxPooling1D(2, padding="same"), layers.LSTM(3)),
        lambda: _final_state(layers.Cropping1D((1, 2))),
        lambda: _final_state(layers.Conv1D(4, 3, padding="same"), layers.Cropping1D((0, 1))),
    ],
)
def test_a_summary_of_what_did_not_see_the_end_is_exact(build: Build) -> None:
    assert_streams(randomized(build()))


def test_edges_leave_out_what_looks_ahead_and_nothing_else() -> None:
    """The mean of all frames whose look-ahead is there, and the state behind the last of these."""
    first = frames()
    conv = layers.Conv1D(4, 5, padding="same")
    every = layers.GRU(3, return_sequences=True, name="every")(conv(first))
    last = layers.GRU(3, name="last")(conv(first))
    model = randomized(keras.Model(first, [layers.GlobalAveragePooling1D()(conv(first)), last]))
    graph = stream(from_keras(model), bounds=Bounds(edges=True))
    assert graph.spec().latency_frames == 2
    assert len(graph.approximations) == 2
    (array,) = streams_for(model, 30)
    mean, state = stepped(graph, [array])
    frame_by_frame = keras.Model(first, [conv(first), every])
    frame_by_frame.get_layer("every").set_weights(model.get_layer("last").get_weights())
    exact, states = (output[0] for output in keras_outputs(frame_by_frame, [array[None]]))
    for number in range(2, 30):  # what frame number 27 and those before it give is settled when frame 29 is there
        np.testing.assert_allclose(mean[number], exact[: number - 1].mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state[number], states[number - 2], rtol=1e-4, atol=1e-5)


def test_edges_are_not_asked_for_where_nothing_looks_ahead() -> None:
    with pytest.raises(UsageError, match="--approximate edges"):
        stream(from_keras(chain(layers.GRU(3))), bounds=Bounds(edges=True))


# several streams


@pytest.mark.parametrize("build", [NETWORKS[name][0] for name in ("average", "max", "inception")] + [u_net])
def test_each_stream_of_a_batch_is_as_alone(build: Build) -> None:
    model = randomized(build())
    graph = from_keras(model)
    alone, together = stream(graph), stream(graph, batch=3)
    fed = lanes_for(model, 12 * alone.frames_per_step)
    found = outputs(together, fed, taken_apart=True)[0]
    for lane in range(3):
        one = outputs(alone, [array[lane] for array in fed], taken_apart=False)[0]
        np.testing.assert_allclose(found[lane], one[0], rtol=1e-5, atol=1e-5)


# random windows


Drawn = tuple[str, int, int, int, str]
"""A layer as (kind, span, stride, dilation, padding)."""

CONVOLUTIONS = {
    "conv": lambda span, **options: layers.Conv1D(3, span, **options),
    "depthwise": layers.DepthwiseConv1D,
    "separable": lambda span, **options: layers.SeparableConv1D(3, span, **options),
}
POOLS = {"average": layers.AveragePooling1D, "max": layers.MaxPooling1D}


def layer(kind: str, span: int, stride: int, dilation: int, padding: str) -> Any:
    """Return a layer that moves a window over time, or makes the sequence longer or shorter."""
    if kind in POOLS:
        return POOLS[kind](span, strides=stride, padding=padding)
    if kind in CONVOLUTIONS:
        dilation = dilation if stride == 1 else 1  # Keras has no both
        return CONVOLUTIONS[kind](span, strides=stride, dilation_rate=dilation, padding=padding)
    return {"pad": layers.ZeroPadding1D, "crop": layers.Cropping1D}[kind]((span - 1, dilation - 1))


WINDOWS = st.tuples(
    st.sampled_from([*CONVOLUTIONS, *POOLS, "pad", "crop"]),
    st.integers(1, 6), st.sampled_from([1, 1, 2, 3]), st.integers(1, 3), st.sampled_from(["same", "same", "valid"]),
)  # fmt: skip
DRAWN = (
    st.lists(WINDOWS, min_size=1, max_size=4).filter(lambda parts: np.prod([part[2] for part in parts]) < 9),
    st.integers(1, 4),
    st.integers(1, 3),
)


def assert_random_windows(parts: list[Drawn], span: int, per_step: int) -> None:
    """One window behind the other; and, as a second output, two beside each other."""
    first = value = frames()
    for part in parts:
        value = layer(*part)(value)
    branches = [layers.Conv1D(3, size, padding="same")(first) for size in (span, span + 2)]
    model = keras.Model(first, [value, layers.Add()(branches)])
    assert_streams(randomized(model), length=48, per_step=per_step)


@settings(RANDOM, max_examples=5)
@given(*DRAWN)
def test_random_windows(parts: list[Drawn], span: int, per_step: int) -> None:
    assert_random_windows(parts, span, per_step)


@pytest.mark.slow
@settings(RANDOM, max_examples=60)
@given(*DRAWN)
def test_many_random_windows(parts: list[Drawn], span: int, per_step: int) -> None:
    assert_random_windows(parts, span, per_step)

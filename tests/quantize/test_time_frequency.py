"""Convolutions and pools over time and frequency, and the way from there to the features of a frame."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras import layers

from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.streaming import stream
from tests.quantize.networks import Build, frames, randomized
from tests.quantize.test_streaming import assert_streams

RANDOM = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate)
)
BANDS = 8


def spectral(*parts: Any, bands: int = BANDS) -> Any:
    """Return a model of one layer behind the other, over (time, bands, 1)."""
    first = frames(bands)
    value = layers.Reshape((-1, bands, 1))(first)
    for part in parts:
        value = part(value)
    return keras.Model(first, value)


def pictures(*parts: Any) -> Any:
    """The same over an input of two channels."""
    value = first = keras.Input((None, BANDS, 2), name="spectra")
    for part in parts:
        value = part(value)
    return keras.Model(first, value)


def crnn(padding: str = "same") -> Any:
    """As in Hello Edge (Zhang et al. 2017, arXiv:1711.07128, section 3.3), smaller."""
    return spectral(
        layers.Conv2D(6, (5, 4), strides=(2, 2), padding=padding), layers.BatchNormalization(), layers.ReLU(),
        layers.TimeDistributed(layers.Flatten()), layers.GRU(5, return_sequences=True), layers.Dense(4),
    )  # fmt: skip


def ds_cnn(pool: bool = True) -> Any:
    """As in Hello Edge, section 3.4, smaller: without the pool it sees nothing behind the end."""
    parts = [layers.ZeroPadding2D(((4, 0), (1, 1))), layers.Conv2D(6, (5, 4), strides=(2, 2), use_bias=False)]
    for _ in range(2):
        parts += [layers.BatchNormalization(), layers.ReLU(), layers.ZeroPadding2D(((2, 0), (1, 1)))]
        parts += [layers.DepthwiseConv2D(3, use_bias=False), layers.BatchNormalization(), layers.ReLU()]
        parts += [layers.Conv2D(6, 1, use_bias=False)]
    parts += [layers.BatchNormalization(), layers.ReLU()]
    return spectral(*parts, *([layers.GlobalAveragePooling2D(), layers.Dense(3)] if pool else []))


NETWORKS: dict[str, Build] = {
    "conv_valid": lambda: spectral(layers.Conv2D(3, (3, 2))),
    "conv_same": lambda: spectral(layers.Conv2D(3, (3, 5), padding="same", activation="relu")),
    "conv_stride": lambda: spectral(layers.Conv2D(3, (4, 3), strides=(1, 2), padding="same")),
    "conv_stride_in_time": lambda: pictures(layers.Conv2D(3, (4, 3), strides=2, padding="same")),
    "conv_dilation": lambda: pictures(layers.Conv2D(3, (3, 2), dilation_rate=(2, 3))),
    "conv_groups": lambda: pictures(layers.Conv2D(4, (3, 2), groups=2)),
    "conv_frequency_alone": lambda: spectral(layers.Conv2D(3, (1, 3), strides=(1, 2))),
    "depthwise": lambda: pictures(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)),
    "separable": lambda: pictures(layers.SeparableConv2D(4, (3, 2), padding="same")),
    "max": lambda: pictures(layers.MaxPooling2D((2, 3))),
    "max_same": lambda: pictures(layers.MaxPooling2D((3, 3), strides=(1, 2), padding="same")),
    "average": lambda: pictures(layers.AveragePooling2D((2, 2))),
    "average_same": lambda: pictures(layers.AveragePooling2D((3, 4), strides=(1, 2), padding="same")),
    "batch_norm": lambda: pictures(layers.BatchNormalization(), layers.Conv2D(3, 2), layers.BatchNormalization()),
    "dropout": lambda: pictures(layers.SpatialDropout2D(0.5), layers.Conv2D(3, 2)),
    "padding": lambda: pictures(layers.ZeroPadding2D(((2, 1), (1, 3))), layers.Conv2D(3, (4, 3))),
    "cropping": lambda: pictures(layers.Cropping2D(((2, 1), (1, 3)))),
    "up": lambda: pictures(layers.UpSampling2D((2, 3))),
    "global_mean": lambda: pictures(layers.GlobalAveragePooling2D()),
    "global_max": lambda: pictures(layers.Conv2D(3, 2), layers.GlobalMaxPooling2D()),
    "global_mean_kept": lambda: pictures(layers.GlobalAveragePooling2D(keepdims=True), layers.Flatten()),
    "permuted": lambda: pictures(layers.Permute((1, 3, 2)), layers.Reshape((-1, 2 * BANDS)), layers.LSTM(3)),
    "crnn": crnn,
    "crnn_valid": lambda: crnn("valid"),
    "ds_cnn": ds_cnn,
    "ds_cnn_frames": lambda: ds_cnn(pool=False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_time_and_frequency_are_exact(name: str) -> None:
    assert_streams(randomized(NETWORKS[name]()))


def test_batch_normalization_leaves_no_node_behind() -> None:
    """It goes into the weights of the convolution before it, however many axes that has."""
    plain = [layers.Conv2D(3, 2), layers.DepthwiseConv2D(2), layers.SeparableConv2D(3, 2)]
    bare = stream(from_keras(pictures(*plain)))
    normalized = [part for layer in plain for part in (layer, layers.BatchNormalization())]
    folded = stream(from_keras(randomized(pictures(*normalized))))
    count = [Counter(node.op_type for node in graph.model.graph) for graph in (bare, folded)]
    assert count[0] == count[1]


Drawn = tuple[str, tuple[int, int], tuple[int, int], tuple[int, int], str]
"""A layer as (kind, sizes, strides, dilations, padding), each in time and in frequency."""
PLANES = st.tuples(
    st.sampled_from(["conv", "depthwise", "separable", "max", "average"]),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.sampled_from([1, 1, 2]), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.sampled_from(["same", "same", "valid"]),
)


def plane(kind: str, sizes: Any, strides: Any, dilations: Any, padding: str) -> Any:
    """Return a layer that moves a window over time and frequency."""
    if kind in ("max", "average"):
        pool = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}[kind]
        return pool(sizes, strides=strides, padding=padding)
    options = {"padding": padding, "strides": strides}
    if strides == (1, 1):
        options["dilation_rate"] = dilations
    elif kind != "conv":
        options["strides"] = strides[0]  # the depthwise ones have one stride for both
    if kind == "depthwise":
        return layers.DepthwiseConv2D(sizes, **options)
    return {"conv": layers.Conv2D, "separable": layers.SeparableConv2D}[kind](3, sizes, **options)


def assert_random_planes(parts: list[Drawn], per_step: int) -> None:
    value = first = keras.Input((None, BANDS, 2), name="spectra")
    for kind, sizes, strides, dilations, padding in parts:
        sizes = (sizes[0], min(sizes[1], value.shape[2]))
        strides = (strides[0], min(strides[1], value.shape[2]))
        dilations = dilations if padding == "same" else (dilations[0], 1)
        value = plane(kind, sizes, strides, dilations, padding)(value)
    assert_streams(randomized(keras.Model(first, value)), length=36, per_step=per_step)


@settings(RANDOM, max_examples=4)
@given(st.lists(PLANES, min_size=1, max_size=3), st.integers(1, 2))
def test_random_planes(parts: list[Drawn], per_step: int) -> None:
    assert_random_planes(parts, per_step)


@pytest.mark.slow
@settings(RANDOM, max_examples=50)
@given(st.lists(PLANES, min_size=1, max_size=4), st.integers(1, 2))
def test_many_random_planes(parts: list[Drawn], per_step: int) -> None:
    assert_random_planes(parts, per_step)

"""Networks that give more frames than they take, somewhere in between or in the end."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras import layers

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.streaming import stream
from tests.quantize.networks import Build, chain, frames, randomized
from tests.quantize.test_streaming import assert_streams

RANDOM = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate)
)


def u_net(depth: int = 2, spread: bool = False, width: int = 4) -> Any:
    """Down by strides of two and up again, each level with a skip; every skip must wait for what looks ahead below."""
    first = value = frames()
    skips = []
    for level in range(depth):
        value = layers.Conv1D(width + level, 3, padding="same", activation="relu")(value)
        skips.append(value)
        value = layers.Conv1D(width + level, 4, strides=2, padding="same")(value)
    value = layers.GRU(width + 1, return_sequences=True)(value)
    for skip in reversed(skips):
        up = layers.Conv1DTranspose(width, 5, strides=2, padding="same") if spread else layers.UpSampling1D(2)
        value = layers.Concatenate()([up(value), skip])
        value = layers.Conv1D(width, 3, padding="same")(value)
    return keras.Model(first, value)


NETWORKS: dict[str, Build] = {
    "up": lambda: chain(layers.UpSampling1D(3)),
    "up_and_window": lambda: chain(layers.UpSampling1D(2), layers.Conv1D(4, 3, padding="same")),
    "up_and_down": lambda: chain(layers.UpSampling1D(3), layers.Conv1D(4, 4, strides=2, padding="same")),
    "down_and_up": lambda: chain(layers.AveragePooling1D(2), layers.UpSampling1D(2), layers.LSTM(3)),
    "padded_up": lambda: chain(layers.ZeroPadding1D((2, 0)), layers.UpSampling1D(2), layers.Conv1D(4, 3)),
    "up_and_mean": lambda: chain(layers.UpSampling1D(2), layers.Conv1D(4, 3), layers.GlobalAveragePooling1D()),
    "spread": lambda: chain(layers.Conv1DTranspose(4, 3, strides=2)),
    "spread_far": lambda: chain(layers.Conv1DTranspose(4, 7, strides=2)),
    "spread_apart": lambda: chain(layers.Conv1DTranspose(4, 2, strides=3, activation="tanh")),
    "spread_same": lambda: chain(layers.Conv1DTranspose(4, 5, strides=2, padding="same", use_bias=False)),
    "spread_one_by_one": lambda: chain(layers.Conv1DTranspose(4, 4, padding="same")),
    "spread_dilated": lambda: chain(layers.Conv1DTranspose(4, 3, dilation_rate=2)),
    "spread_late": lambda: chain(layers.Conv1D(4, 3), layers.Conv1DTranspose(4, 4, strides=2), layers.ReLU()),
    "u_net": u_net,
    "u_net_spread": lambda: u_net(spread=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_more_frames_are_exact(name: str) -> None:
    assert_streams(randomized(NETWORKS[name]()))


def test_steps_and_latency_follow_the_rates() -> None:
    graph = stream(from_keras(u_net()))
    assert graph.frames_per_step == 4
    assert graph.spec().latency_frames == 11, "what the source needs of the future, and no more"
    graph = stream(from_keras(chain(layers.UpSampling1D(2), layers.Conv1D(4, 2))))
    assert graph.frames_per_step == 1
    assert graph.spec().outputs[0].shape == (1, 2, 4)
    assert graph.spec().output_delays == (1,)
    assert graph.spec().latency_frames == 1, "half a frame, rounded up"


def test_a_summary_between_two_input_frames_is_refused() -> None:
    model = chain(layers.UpSampling1D(2), layers.Cropping1D((1, 0)), layers.GlobalMaxPooling1D(name="bad"))
    with pytest.raises(UnsupportedLayerError, match=r"bad.*between two input frames.*crop a multiple"):
        stream(from_keras(model))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: layers.Conv1DTranspose(3, 2, strides=3, output_padding=1, name="bad"), "output_padding="),
        (lambda: layers.Conv1DTranspose(3, 3, name="bad", data_format="channels_first"), "channels_first"),
    ],
)
def test_what_has_no_rule_is_refused_by_name(layer: Build, reason: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=rf"bad.*{reason}.*; "):
        stream(from_keras(chain(layer(), length=8)))


RATES = st.tuples(
    st.sampled_from(["up", "spread", "spread_same", "down", "pool", "window"]), st.integers(1, 5), st.integers(1, 3)
)


def rated(kind: str, span: int, factor: int) -> Any:
    """Return a layer that changes how many frames there are, or looks at its neighbours."""
    return {
        "up": lambda: layers.UpSampling1D(factor),
        "spread": lambda: layers.Conv1DTranspose(3, span, strides=factor),
        "spread_same": lambda: layers.Conv1DTranspose(3, span, strides=factor, padding="same"),
        "down": lambda: layers.Conv1D(3, span, strides=factor, padding="same"),
        "pool": lambda: layers.MaxPooling1D(factor, padding="same"),
        "window": lambda: layers.Conv1D(3, span),
    }[kind]()


def assert_random_rates(parts: list[tuple[str, int, int]], per_step: int) -> None:
    value = first = frames()
    for part in parts:
        value = rated(*part)(value)
    assert_streams(randomized(keras.Model(first, value)), length=36, per_step=per_step)


@settings(RANDOM, max_examples=5)
@given(st.lists(RATES, min_size=1, max_size=4), st.integers(1, 2))
def test_random_rates(parts: list[tuple[str, int, int]], per_step: int) -> None:
    assert_random_rates(parts, per_step)


@pytest.mark.slow
@settings(RANDOM, max_examples=60)
@given(st.lists(RATES, min_size=1, max_size=5), st.integers(1, 3))
def test_many_random_rates(parts: list[tuple[str, int, int]], per_step: int) -> None:
    assert_random_rates(parts, per_step)

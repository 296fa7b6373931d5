"""Networks of layers that treat every frame alike."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from tests.quantize.building import FEATURES, Build, chain, frames

__all__ = ["ACTIVATIONS", "POINTWISE"]


def _normalizations() -> dict[str, Build]:
    batch = layers.BatchNormalization
    statistics = {"mean": np.linspace(-1, 1, FEATURES), "variance": np.linspace(0.5, 2, FEATURES)}
    return {
        "batch_norm": lambda: chain(batch()),
        "batch_norm_bare": lambda: chain(batch(center=False, scale=False)),
        "batch_norm_after_conv": lambda: chain(layers.Conv1D(4, 3), batch(), layers.ReLU()),
        "batch_norm_after_conv_no_bias": lambda: chain(layers.Conv1D(4, 3, use_bias=False), batch(scale=False)),
        "batch_norm_after_groups": lambda: chain(layers.Conv1D(4, 3, groups=2), batch(center=False)),
        "batch_norm_after_depthwise": lambda: chain(layers.DepthwiseConv1D(3, depth_multiplier=2), batch()),
        "batch_norm_after_separable": lambda: chain(layers.SeparableConv1D(4, 3), batch()),
        "batch_norm_after_dense": lambda: chain(layers.Dense(4), batch(epsilon=0.1)),
        "batch_norm_after_dense_no_bias": lambda: chain(layers.Dense(4, use_bias=False), batch(), batch()),
        "batch_norm_after_relu": lambda: chain(layers.Dense(4, activation="relu"), batch()),
        "batch_norm_after_lstm": lambda: chain(layers.LSTM(5, return_sequences=True), batch()),
        "batch_norm_at_the_end": lambda: chain(layers.LSTM(5), batch()),
        "batch_norm_beside_a_reader": _batch_norm_beside_a_reader,
        "batch_norm_after_sum": _batch_norm_after_sum,
        "layer_norm": lambda: chain(layers.LayerNormalization()),
        "layer_norm_bare": lambda: chain(layers.LayerNormalization(center=False, scale=False, epsilon=0.01)),
        "layer_norm_half": lambda: chain(
            layers.LayerNormalization(scale=False), layers.LayerNormalization(center=False)
        ),
        "layer_norm_at_the_end": lambda: chain(layers.GRU(5), layers.LayerNormalization()),
        "normalization": lambda: chain(layers.Normalization(**statistics)),
        "normalization_before_conv": lambda: chain(layers.Normalization(**statistics), layers.Conv1D(4, 3)),
        "normalization_inverted": lambda: chain(layers.Normalization(**statistics, invert=True)),
        "normalization_scalar": lambda: chain(layers.Normalization(axis=None, mean=0.3, variance=2.0)),
        "normalization_adapted": _normalization_adapted,
        "normalization_after_dense": lambda: chain(layers.Dense(FEATURES), layers.Normalization(**statistics)),
        "rescaling": lambda: chain(layers.Rescaling(0.5, offset=-0.3), layers.Rescaling(2.0)),
    }


def _batch_norm_beside_a_reader() -> Any:
    first = frames()
    value = layers.Conv1D(4, 3, padding="causal")(first)
    return keras.Model(first, layers.Add()([layers.BatchNormalization()(value), value]))


def _batch_norm_after_sum() -> Any:
    first = frames()
    total = layers.Add()([layers.Dense(4, use_bias=False)(first), layers.Dense(4)(first)])
    return keras.Model(first, layers.BatchNormalization()(total))


def _normalization_adapted() -> Any:
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(5).normal(2.0, 3.0, (20, 7, FEATURES)).astype(np.float32))
    return chain(layer, layers.Dense(2))


ACTIVATIONS = (
    *("celu", "elu", "exponential", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh"),
    *("leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu"),
    *("soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh"),
    "tanh_shrink",
)


def _activations() -> dict[str, Build]:
    def one(name: str) -> Build:
        return lambda: chain(layers.Dense(4), layers.Activation(name))

    return {
        **{f"activation_{name}": one(name) for name in ACTIVATIONS},
        "relu_layer": lambda: chain(layers.ReLU(max_value=0.8)),
        "relu_layer_slope": lambda: chain(layers.ReLU(negative_slope=0.1, max_value=1.0)),
        "leaky_relu_layer": lambda: chain(layers.LeakyReLU(negative_slope=0.15)),
        "prelu_layer": lambda: chain(layers.PReLU(shared_axes=[1])),
        "prelu_layer_at_the_end": lambda: chain(layers.GRU(4), layers.PReLU()),
        "elu_layer": lambda: chain(layers.ELU(alpha=0.7)),
        "softmax_layer": lambda: chain(layers.Softmax()),
        "keras_ops": _keras_ops,
    }


def _keras_ops() -> Any:
    first = frames()
    half = (1.0 - keras.ops.sigmoid(first)) * 2.0 + first / 4.0 - 0.9
    quotient = 1.0 / (keras.ops.relu(half) + 1.5) - 0.4
    return keras.Model(first, keras.ops.maximum(keras.ops.tanh(quotient), keras.ops.minimum(half, 0.5)))


def _merges() -> dict[str, Build]:
    def two(layer: Any) -> Build:
        def build() -> Any:
            first = frames()
            return keras.Model(first, layer([layers.Dense(4)(first), layers.Dense(4, activation="tanh")(first)]))

        return build

    return {
        "add": two(layers.Add()),
        "subtract": two(layers.Subtract()),
        "multiply": two(layers.Multiply()),
        "maximum": two(layers.Maximum()),
        "minimum": two(layers.Minimum()),
        "average": two(layers.Average()),
        "concatenate": two(layers.Concatenate()),
        "concatenate_axis_2": two(layers.Concatenate(axis=2)),
        "add_three": _add_three,
    }


def _add_three() -> Any:
    first = frames()
    parts = [layers.Dense(3)(first) for _ in range(3)]
    return keras.Model(first, [layers.Add()(parts), layers.Average()(parts), layers.Multiply()(parts)])


POINTWISE: dict[str, Build] = {**_normalizations(), **_activations(), **_merges()}

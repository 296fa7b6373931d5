"""Small Keras networks: one for each layer or option, and some for what streams get wrong most easily."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from tests.quantize.building import (
    FEATURES,
    Array,
    Build,
    chain,
    frames,
    keras_outputs,
    randomized,
    reference,
    streams_for,
)
from tests.quantize.pointwise_networks import POINTWISE

__all__ = [
    "FEATURES",
    "LAYERS",
    "NETWORKS",
    "Array",
    "Build",
    "chain",
    "frames",
    "keras_outputs",
    "randomized",
    "reference",
    "streams_for",
]


def _lstm(units: int = 5, **options: Any) -> Any:
    return layers.LSTM(units, return_sequences=True, **options)


def _gru(units: int = 5, **options: Any) -> Any:
    return layers.GRU(units, return_sequences=True, **options)


def _rnn(units: int = 5, **options: Any) -> Any:
    return layers.SimpleRNN(units, return_sequences=True, **options)


def _recurrent() -> dict[str, Build]:
    return {
        "lstm": lambda: chain(_lstm()),
        "lstm_last": lambda: chain(layers.LSTM(5)),
        "lstm_no_bias": lambda: chain(_lstm(use_bias=False)),
        "lstm_activations": lambda: chain(_lstm(activation="softsign", recurrent_activation="hard_sigmoid")),
        "lstm_elu": lambda: chain(_lstm(activation="elu"), _lstm(3, activation="linear")),
        "lstm_returns_state_unused": lambda: _first_of(layers.LSTM(4, return_sequences=True, return_state=True)),
        "lstm_no_unit_forget_bias": lambda: chain(_lstm(unit_forget_bias=False, dropout=0.2, recurrent_dropout=0.1)),
        "gru_reset_after": lambda: chain(_gru(reset_after=True)),
        "gru_reset_before": lambda: chain(_gru(reset_after=False)),
        "gru_last": lambda: chain(layers.GRU(4)),
        "gru_no_bias_after": lambda: chain(_gru(use_bias=False, reset_after=True)),
        "gru_no_bias_before": lambda: chain(_gru(use_bias=False, reset_after=False)),
        "gru_activations": lambda: chain(_gru(activation="relu", recurrent_activation="hard_sigmoid")),
        "gru_softplus": lambda: chain(_gru(activation="softplus", reset_after=False), _gru(3, activation="elu")),
        "rnn": lambda: chain(_rnn()),
        "rnn_no_bias_relu": lambda: chain(_rnn(use_bias=False, activation="relu")),
        "rnn_linear": lambda: chain(_rnn(activation="linear"), layers.SimpleRNN(3)),
        "mixed": lambda: chain(_lstm(), _gru(reset_after=False), _rnn(), layers.Dense(2)),
        "one_unit": lambda: chain(_lstm(1), _gru(1), features=1),
    }


def _first_of(layer: Any) -> Any:
    first = frames()
    return keras.Model(first, layer(first)[0])


def _convolutions() -> dict[str, Build]:
    conv, depthwise, separable = layers.Conv1D, layers.DepthwiseConv1D, layers.SeparableConv1D
    return {
        "conv_causal": lambda: chain(conv(4, 3, padding="causal")),
        "conv_valid": lambda: chain(conv(4, 3)),
        "conv_one_tap": lambda: chain(conv(4, 1, activation="relu")),
        "conv_causal_dilation": lambda: chain(conv(4, 3, padding="causal", dilation_rate=3)),
        "conv_valid_dilation": lambda: chain(conv(4, 3, dilation_rate=2, use_bias=False)),
        "conv_causal_stride": lambda: chain(conv(4, 5, strides=2, padding="causal")),
        "conv_valid_stride": lambda: chain(conv(4, 5, strides=2)),
        "conv_stride_beyond_kernel": lambda: chain(conv(4, 2, strides=3)),
        "conv_groups": lambda: chain(conv(4, 3, groups=2, padding="causal")),
        "conv_groups_valid_stride": lambda: chain(conv(9, 4, groups=3, strides=2)),
        "depthwise": lambda: chain(depthwise(3)),
        "depthwise_multiplier": lambda: chain(depthwise(3, depth_multiplier=2, activation="tanh")),
        "depthwise_stride": lambda: chain(depthwise(4, strides=2, use_bias=False)),
        "depthwise_dilation": lambda: chain(depthwise(3, dilation_rate=2)),
        "separable": lambda: chain(layers.ZeroPadding1D((2, 0)), separable(5, 3, activation="relu")),
        "separable_multiplier": lambda: chain(separable(5, 3, depth_multiplier=2, use_bias=False)),
        "separable_stride": lambda: chain(separable(5, 3, strides=2)),
        "separable_dilation": lambda: chain(separable(5, 3, dilation_rate=2)),
        "zero_padding": lambda: chain(layers.ZeroPadding1D((2, 0)), conv(4, 3)),
        "zero_padding_short": lambda: chain(layers.ZeroPadding1D((1, 0)), conv(4, 4, strides=2)),
        "zero_padding_long": lambda: chain(layers.ZeroPadding1D((5, 0)), conv(4, 3), _gru(3)),
        "zero_padding_bare": lambda: chain(layers.ZeroPadding1D((3, 0)), _lstm(3)),
        "zero_padding_at_the_end": lambda: chain(layers.Dense(2), layers.ZeroPadding1D((3, 0))),
        "zero_padding_late": lambda: chain(conv(4, 3), layers.ZeroPadding1D((3, 0)), conv(4, 2), _gru(3)),
        "zero_padding_cropped": lambda: chain(layers.ZeroPadding1D((3, 0)), layers.Cropping1D((2, 0)), conv(4, 3)),
        "zero_padding_nothing": lambda: chain(layers.ZeroPadding1D((0, 0)), layers.Dense(2)),
        "cropping": lambda: chain(layers.Cropping1D((2, 0)), _gru(3)),
        "cropping_nothing": lambda: chain(layers.Cropping1D((0, 0)), layers.Dense(2)),
    }


def _pools() -> dict[str, Build]:
    return {
        "average_pool": lambda: chain(layers.AveragePooling1D(3)),
        "average_pool_every_frame": lambda: chain(layers.AveragePooling1D(4, strides=1)),
        "max_pool": lambda: chain(layers.MaxPooling1D(2)),
        "max_pool_overlapping": lambda: chain(layers.MaxPooling1D(3, strides=2)),
        "pool_of_one": lambda: chain(layers.MaxPooling1D(1), layers.AveragePooling1D(1)),
        "running_mean": lambda: chain(layers.GlobalAveragePooling1D(), layers.Dense(3)),
        "running_max": lambda: chain(_rnn(4), layers.GlobalMaxPooling1D()),
        "running_mean_strided": lambda: chain(layers.Conv1D(4, 3, strides=2), layers.GlobalAveragePooling1D()),
        "running_max_padded": lambda: chain(layers.ZeroPadding1D((3, 0)), layers.GlobalMaxPooling1D()),
        "last_frame": _last_frame,
        "all_but_the_first": _all_but_the_first,
    }


def _last_frame() -> Any:
    first = frames()
    return keras.Model(first, layers.Dense(3)(_gru(4)(first)[:, -1]))


def _all_but_the_first() -> Any:
    first = frames()
    value = layers.Conv1D(4, 3, strides=2)(first)
    return keras.Model(first, layers.Add()([value[:, 2:], layers.Conv1D(4, 3)(value)]))


def _structures() -> dict[str, Build]:
    return {
        "dense_no_bias": lambda: chain(layers.Dense(3, use_bias=False, activation="sigmoid")),
        "time_distributed": lambda: chain(_lstm(), layers.TimeDistributed(layers.Dense(3, activation="softmax"))),
        "time_distributed_norms": lambda: chain(
            layers.TimeDistributed(layers.BatchNormalization()), layers.TimeDistributed(layers.Activation("tanh"))
        ),
        "dropouts": lambda: chain(
            layers.Dropout(0.5), layers.SpatialDropout1D(0.5), layers.GaussianNoise(1.0), layers.Dense(3)
        ),
        "nested_functional": lambda: chain(chain(layers.Conv1D(4, 3), layers.ReLU()), _gru(3)),
        "nested_sequential": _nested_sequential,
        "nested_twice": _nested_twice,
        "shared_layer": _shared_layer,
        "shared_lstm": _shared_lstm,
        "fixed_length": lambda: chain(
            layers.Conv1D(4, 3, padding="causal"), layers.LSTM(4), layers.Dense(3, activation="softmax"), length=25
        ),
        "stateful": _stateful,
        "sequential": _sequential,
        "two_inputs": _two_inputs,
        "output_twice": _output_twice,
        "input_is_an_output": _input_is_an_output,
        "odd_names": lambda: _named("frames.of-sound", "gru-1.x", "p.out-put"),
        "names_of_underscores": lambda: _named("_1st", "_", "__"),
        "input_named_like_a_state": lambda: _named("gru_h_in", "gru", "gru_h_out"),
        "layers_named_alike": lambda: chain(_gru(3, name="gru-1"), _gru(3, name="gru_1"), _gru(3, name="gru.1")),
        "outputs_by_name": _outputs_by_name,
    }


def _nested_sequential() -> Any:
    head = keras.Sequential([frames(4), layers.Dense(5, activation="relu"), layers.LSTM(3)], name="head")
    return chain(layers.Dense(4), head)


def _nested_twice() -> Any:
    block = chain(layers.Conv1D(FEATURES, 3, padding="causal"), layers.ReLU())
    first = frames()
    return keras.Model(first, layers.Add()([first, block(block(first))]))


def _shared_layer() -> Any:
    first, dense = frames(), layers.Dense(FEATURES, activation="tanh")
    return keras.Model(first, dense(dense(first)))


def _shared_lstm() -> Any:
    first, second, lstm = frames(name="left"), frames(name="right"), _lstm(4)
    return keras.Model([first, second], layers.Subtract()([lstm(first), lstm(second)]))


def _stateful() -> Any:
    return keras.Sequential(
        [keras.Input(batch_shape=(1, None, FEATURES)), _lstm(stateful=True), _gru(4, stateful=True), layers.Dense(2)]
    )


def _sequential() -> Any:
    return keras.Sequential([frames(), layers.Conv1D(4, 3, strides=2), _gru(3), layers.GlobalMaxPooling1D()])


def _two_inputs() -> Any:
    accel, gyro = frames(5, "accel"), frames(3, "gyro")
    joined = layers.Concatenate()([layers.Conv1D(4, 3, padding="causal")(accel), layers.Dense(2)(gyro)])
    return keras.Model([accel, gyro], [_lstm(3)(joined), layers.GlobalAveragePooling1D()(joined)])


def _output_twice() -> Any:
    first = frames()
    value = _lstm(3)(first)
    return keras.Model(first, [value, value, layers.Dense(2)(value)])


def _input_is_an_output() -> Any:
    first = frames()
    return keras.Model(first, [first, layers.Conv1D(2, 2)(first)])


def _named(first: str, second: str, third: str) -> Any:
    value = frames(name=first)
    return keras.Model(value, layers.Dense(2, name=third)(_gru(3, name=second)(value)))


def _outputs_by_name() -> Any:
    first = frames()
    return keras.Model(first, {"words": layers.Dense(2, name="p")(first), "last": layers.GRU(3, name="q")(first)})


LAYERS: dict[str, Build] = {
    **_recurrent(),
    **_convolutions(),
    **POINTWISE,
    **_pools(),
    **_structures(),
}
"""One network for each layer or option that is supported."""


def _residual() -> Any:
    first = frames()
    value = layers.Conv1D(5, 3, padding="causal")(first)
    for dilation in (1, 2):
        branch = layers.ZeroPadding1D((2 * dilation, 0))(value)
        branch = layers.SeparableConv1D(5, 3, dilation_rate=dilation, activation="relu")(branch)
        value = layers.Add()([value, layers.BatchNormalization()(branch)])
    gated = layers.Multiply()([value, layers.Dense(5, activation="sigmoid")(value)])
    joined = _gru(4)(layers.Concatenate()([gated, first]))
    return keras.Model(first, layers.Dense(3)(layers.GlobalAveragePooling1D()(joined)))


def _branches_valid() -> Any:
    """A valid convolution beside a cropped skip connection: the skip needs a delay line."""
    first = frames()
    value = layers.Conv1D(FEATURES, 5)(first)
    return keras.Model(first, _lstm(3)(layers.Add()([value, layers.Cropping1D((4, 0))(first)])))


def _branches_early() -> Any:
    """The same with the skip cut so that frame n meets frame n of the convolution: the stream must delay it."""
    first = frames(length=30)
    value = layers.Conv1D(FEATURES, 5)(layers.ZeroPadding1D((4, 0))(layers.Cropping1D((3, 0))(first)))
    return keras.Model(first, layers.Add()([value, layers.Cropping1D((3, 0))(first)]))


def _two_rates() -> Any:
    """Outputs at three rates: one step takes six frames."""
    first = frames()
    by_two = layers.Conv1D(4, 3, strides=2)(first)
    by_three = layers.AveragePooling1D(3)(first)
    return keras.Model(first, [_gru(3)(by_two), _lstm(3)(by_three), layers.Conv1D(2, 4)(first)])


def _strides_between() -> Any:
    first = frames()
    value = _lstm(4)(layers.Conv1D(4, 4, strides=2)(_gru(4)(first)))
    return keras.Model(first, layers.Conv1D(4, 3, strides=3, padding="causal")(value)[:, -1])


def _padded_twice() -> Any:
    first = frames()
    value = layers.ZeroPadding1D((5, 0))(first)
    left = _lstm(3)(layers.ReLU()(layers.DepthwiseConv1D(3, strides=2)(value)))
    right = layers.Dense(2)(_gru(3)(layers.ZeroPadding1D((3, 0))(first)))
    return keras.Model(first, [left, right])


NETWORKS: dict[str, Build] = {
    "residual": _residual,
    "branches_valid": _branches_valid,
    "branches_early": _branches_early,
    "two_rates": _two_rates,
    "strides_between": _strides_between,
    "padded_twice": _padded_twice,
    "valid_chain": lambda: chain(
        layers.Conv1D(4, 3, dilation_rate=2), layers.LayerNormalization(), _lstm(3),
        layers.DepthwiseConv1D(3, depth_multiplier=2), layers.AveragePooling1D(3, strides=1), _gru(3),
    ),
    "crnn": lambda: chain(
        layers.Normalization(mean=np.zeros(FEATURES), variance=np.ones(FEATURES) * 2),
        layers.Conv1D(8, 5, strides=2, padding="causal", activation="relu"), layers.BatchNormalization(),
        layers.MaxPooling1D(2), _gru(6), layers.Dense(4), layers.GlobalAveragePooling1D(),
    ),
}  # fmt: skip
"""Networks of several layers, for what lies between layers: delays, rates, alignment."""

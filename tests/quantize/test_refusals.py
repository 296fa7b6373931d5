"""What cannot be streamed is refused by name: the layer, the reason, and what can be done."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgernn.errors import ConversionError, UnsupportedLayerError
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.graph import Builder
from edgernn.quantize.streaming import stream
from tests.quantize.networks import Build, chain, frames


class _Untraceable(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        import tensorflow as tf

        return tf.math.abs(x)


def _with_state_of_another() -> Any:
    first = frames()
    _, h, c = layers.LSTM(4, return_state=True, name="encoder")(first)
    return keras.Model(first, layers.LSTM(4, name="bad")(first, initial_state=[h, c]))


def _always_dropping() -> Any:
    first = frames()
    return keras.Model(first, layers.Dropout(0.5, name="bad")(layers.Dense(2)(first), training=True))


def _item(key: Any) -> Any:
    first = frames(length=20)
    return keras.Model(first, layers.Dense(2)(first)[key])


def _own_activation(x: Any) -> Any:
    return x if x > 0 else 0.0


_own_activation.__name__ = "relu"


def _flat_weights() -> Any:
    first = frames(length=9)
    return keras.Model(first, layers.Reshape((54,), name="bad")(first))


REFUSED: dict[str, tuple[Build, str]] = {
    "lambda": (lambda: chain(layers.Lambda(lambda x: 2 * x, name="bad")), "code"),
    "initial_state_of_another": (_with_state_of_another, "initial state"),
    "training": (_always_dropping, "training=True"),
    "flatten": (lambda: chain(layers.Flatten(name="bad"), length=9), "mixes time"),
    "first_frame": (lambda: _item((slice(None), 0)), "only the"),
    "last_frames": (lambda: _item((slice(None), slice(-3, None))), "first and the last"),
    "first_frames": (lambda: _item((slice(None), slice(None, 3))), "first and the last"),
    "norm_over_time": (lambda: chain(layers.LayerNormalization(axis=1, name="bad"), length=9), "a summary of it"),
    "normalization_of_time": (
        lambda: chain(layers.Normalization(axis=1, mean=np.zeros(6), variance=np.ones(6), name="bad"), length=6),
        "axes",
    ),
    "prelu_by_frame": (lambda: chain(layers.PReLU(name="bad"), length=9), "from frame to frame"),
    "conv_channels_first": (
        lambda: chain(layers.Conv1D(2, 2, data_format="channels_first", name="bad"), length=8),
        "channels_first",
    ),
    "pool_channels_first": (
        lambda: chain(layers.AveragePooling1D(2, data_format="channels_first", name="bad"), length=8),
        "channels_first",
    ),
    "quantized": (lambda: _quantized(), "weights are quantized"),
    "lora": (lambda: _with_lora(), "LoRA"),
    "float16": (lambda: chain(layers.Dense(3, dtype="float16", name="bad")), "weights are float16"),
    "own_layer": (lambda: chain(_Untraceable(name="bad")), "cannot be traced"),
    "nested_own_layer": (lambda: chain(chain(_Untraceable(name="bad")), layers.Dense(2)), "cannot be traced"),
    "batch_norm_of_time": (
        lambda: chain(layers.BatchNormalization(axis=1, name="bad"), length=9),
        "from frame to frame",
    ),
    "softmax_over_time": (lambda: chain(layers.Softmax(axis=1, name="bad")), "for each frame of the sequence"),
    "joined_in_time": (lambda: chain_of_two(layers.Concatenate(axis=1, name="bad")), "along the time axis"),
    "activation_of_your_own": (lambda: chain(layers.Dense(2, activation=_own_activation, name="bad")), "of your own"),
    "activation_in_a_cell": (lambda: chain(layers.GRU(2, activation=_own_activation, name="bad")), "cannot be traced"),
    "transposed": (lambda: chain(layers.Permute((2, 1), name="bad"), length=9), "time on axis 2"),
    "dense_over_time": (
        lambda: chain(layers.Permute((2, 1)), layers.Dense(3, name="bad"), layers.Permute((2, 1)), length=9),
        "sums over time",
    ),
    "reshape_over_time": (_flat_weights, "mixes time"),
    "group_norm": (lambda: chain(layers.GroupNormalization(2, name="bad")), "TimeDistributed"),
    "repeat_vector": (lambda: chain(layers.GRU(4), layers.RepeatVector(3, name="bad")), "two models"),
    "discretization": (lambda: chain(layers.Discretization([0.0, 1.0], name="bad")), "whole numbers"),
    "sparsemax": (lambda: chain(layers.Activation("sparsemax", name="bad")), "sorts"),
    "dot": (lambda: chain_of_two(layers.Dot(2, name="bad")), "every frame of one input with every frame"),
    "sum_over_time": (lambda: _operation(lambda x: keras.ops.sum(x, axis=1)), "has no end"),
    "batch_mean": (lambda: _operation(lambda x: keras.ops.mean(x, axis=0)), "along the batch"),
    "sorted": (lambda: _operation(keras.ops.sort), "no rule for this operation"),
    "masked_softmax": (
        lambda: chain(layers.Masking(), layers.Softmax(name="bad")),
        "save the model without it",
    ),
    "masked_backwards": (
        lambda: chain(layers.Masking(), layers.GRU(2, go_backwards=True, return_sequences=True, name="bad")),
        "backwards under a mask",
    ),
    "recurrent_each": (
        lambda: chain(layers.Reshape((-1, 2, 3)), layers.TimeDistributed(layers.GRU(2, name="bad"))),
        "along the features of each frame",
    ),
    "rates_meet": (lambda: rates_meet(), "different rates"),
}


def chain_of_two(layer: Any) -> Any:
    first = frames()
    return keras.Model(first, layer([first, layers.Dense(6)(first)]))


def _operation(function: Any) -> Any:
    first = frames(name="bad")
    return keras.Model(first, function(layers.Dense(3, name="bad_dense")(first)))


def _masked_model() -> Any:
    first = frames(4)
    return chain(layers.Masking(), keras.Model(first, layers.GRU(3)(first), name="bad"), features=4)


def _quantized() -> Any:
    dense = layers.Dense(3, name="bad")
    model = chain(dense)
    dense.quantize("int8")
    return model


def _with_lora() -> Any:
    dense = layers.Dense(3, name="bad")
    model = chain(dense)
    dense.enable_lora(2)
    return model


def rates_meet() -> Any:
    first = frames()
    return keras.Model(
        first,
        layers.Concatenate(name="bad")([layers.LSTM(2)(first), layers.Dense(3)(first)[:, -1]]) * 1.0
        + layers.GlobalMaxPooling1D()(layers.Conv1D(5, 2, strides=2)(first)),
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_stream_is_refused_by_name(name: str) -> None:
    build, reason = REFUSED[name]
    with pytest.raises(UnsupportedLayerError) as refusal:
        stream(from_keras(build()))
    message = str(refusal.value)
    assert reason in message
    assert any(name in message for name in ("bad", "get_item", "add", "sum", "mean", "sort")), "it names the layer"
    assert "; " in message, "it says what can be done"
    assert "\n" not in message


def test_an_input_of_open_features_is_refused() -> None:
    first = keras.Input((None, None, 2), name="pictures")
    with pytest.raises(ConversionError, match=r"pictures.*expected \(batch, time, features\.\.\.\)"):
        from_keras(keras.Model(first, layers.Dense(2)(first)))


def test_a_nested_model_under_a_mask_is_refused() -> None:
    """Keras says that it takes the mask away, and then heeds it inside."""
    with pytest.warns(UserWarning, match="destroy the mask"):
        model = _masked_model()
    with pytest.raises(UnsupportedLayerError, match=r"'bad'.*let the layer that masks be a part of it"):
        from_keras(model)


def test_a_model_that_is_no_graph_is_refused() -> None:
    class Own(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(ConversionError, match=r"not a graph of layers.*rebuild it"):
        from_keras(Own(name="own"))
    with pytest.raises(ConversionError, match="not built"):
        from_keras(keras.Sequential([layers.Dense(2)]))


def test_an_operator_without_a_rule_is_refused_by_name() -> None:
    builder = Builder("torch")
    value = builder.input("x", ["batch", "time", 4])
    builder.scope = "decoder"
    builder.output(builder.op("CumSum", value, builder.constant(np.array(1))), "y")
    with pytest.raises(
        UnsupportedLayerError, match=r"decoder \(CumSum\).*no rule for this operator; .*ReduceSum.*--list-layers"
    ):
        stream(builder.finish())

"""Small Keras networks: one for each layer or option, and some for what streams get wrong most easily."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx_ir as ir
from keras import layers
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

Array = NDArray[np.float32]
Build = Callable[[], Any]
FEATURES = 6


def frames(features: int = FEATURES, name: str = "frames", length: int | None = None) -> Any:
    """Return the input of a model."""
    return keras.Input((length, features), name=name)


def chain(*parts: Any, features: int = FEATURES, length: int | None = None) -> Any:
    """Return a model of one layer behind the other."""
    value = first = frames(features, length=length)
    for part in parts:
        value = part(value)
    return keras.Model(first, value)


def randomized(model: Any, seed: int = 0) -> Any:
    """Give a model weights among which none could be mistaken for another: biases and statistics too."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        kind = weight.path.rpartition("/")[2]
        if kind in ("seed_generator_state", "count"):
            continue
        if "variance" in kind:
            weight.assign(random.uniform(0.5, 2.0, weight.shape))
        elif kind in ("moving_mean", "mean", "beta", "bias", "alpha"):
            weight.assign(random.normal(0.0, 0.3, weight.shape))
        elif kind == "gamma":
            weight.assign(random.uniform(0.6, 1.4, weight.shape))
        else:
            fan_in = max(int(np.prod(weight.shape[:-1])), 1)
            weight.assign(random.normal(0.0, 1.2 / np.sqrt(fan_in), weight.shape))
    return model


def streams_for(model: Any, length: int = 40, seed: int = 1) -> list[Array]:
    """Return noise for every input, `(frames, features)`, as long as the model wants it where it wants that."""
    random = np.random.default_rng(seed)
    return [
        random.standard_normal((item.shape[1] or length, item.shape[2])).astype(np.float32) for item in model.inputs
    ]


def keras_outputs(model: Any, batches: list[Array]) -> list[Array]:
    """Ask Keras for every output on whole sequences `(batch, frames, features)`, from a fresh state."""
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False):
            layer.reset_state()
    outputs = model(batches if len(batches) > 1 else batches[0], training=False)
    return [np.asarray(item, np.float32) for item in keras.tree.flatten(outputs)]


def reference(model: ir.Model, fed: dict[str, Array]) -> list[Array]:
    """Run a graph with ONNX' reference evaluator."""
    return list(ReferenceEvaluator(ir.to_proto(model)).run(None, fed))


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
        "batch_norm_after_lstm": lambda: chain(_lstm(), batch()),
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
    *("elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "leaky_relu", "linear", "log_softmax", "mish"),
    *("relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh"),
)
RECURRENT_ACTIVATIONS = ("elu", "hard_sigmoid", "linear", "relu", "sigmoid", "softplus", "softsign", "tanh")


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
    **_normalizations(),
    **_activations(),
    **_merges(),
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

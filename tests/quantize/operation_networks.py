"""Networks of functions of keras.ops, values of several feature axes, and layers of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.quantize.building import FEATURES, Build, chain, frames

__all__ = ["OPERATIONS", "Gated"]


def _all_of(table: dict[str, Callable[[Any], Any]]) -> Build:
    """A model with an output, or several, for every function of a table."""

    def build() -> Any:
        first = frames()
        value = layers.Dense(FEATURES, activation="tanh")(first) * 2.0
        return keras.Model(first, {name: function(value) for name, function in table.items()})

    return build


def _folded(value: Any) -> Any:
    """Six features as two by three."""
    return layers.Reshape((-1, 2, 3))(value)


ELEMENTWISE: dict[str, Callable[[Any], Any]] = {
    "abs": ops.abs, "ceil": ops.ceil, "cos": ops.cos, "erf": ops.erf, "exp": ops.exp, "exp2": ops.exp2,
    "expm1": ops.expm1, "floor": ops.floor, "negative": ops.negative, "reciprocal": lambda x: 1 / (x + 4.0),
    "round": ops.round, "sign": ops.sign, "sin": ops.sin, "square": ops.square,
    "log": lambda x: ops.log(x + 3.0), "log1p": lambda x: ops.log1p(x * x), "log2": lambda x: ops.log2(x + 3.0),
    "log10": lambda x: ops.log10(x + 3.0), "sqrt": lambda x: ops.sqrt(x + 2.5), "tan": lambda x: ops.tan(x / 2),
    "rsqrt": lambda x: ops.rsqrt(x + 2.5), "power": lambda x: (x + 2.5) ** 1.5,
    "clip": lambda x: ops.clip(x, -0.5, 1),
    "where": lambda x: ops.where(x > 0.3, x, -0.5), "logaddexp": lambda x: ops.logaddexp(x, 0.5),
    "not_equal": lambda x: ops.where(ops.not_equal(ops.relu(x), 0), 1.0, x),
    "logic": lambda x: ops.where(ops.logical_and(x > -1, ops.logical_not(x >= 1)), x, ops.cast(x <= -1, "float32")),
    "floor_divide": lambda x: x // 0.25, "fmax": lambda x: ops.fmax(x, 0.1), "like": lambda x: x - ops.ones_like(x),
    "threshold": lambda x: keras.activations.threshold(x, 0.2, 0.1),
    "stop_gradient": lambda x: ops.stop_gradient(x),
}  # fmt: skip


MOVING: dict[str, Callable[[Any], Any]] = {
    "slice": lambda x: ops.concatenate([x[:, :, 2:5], x[..., :1], x[:, :, ::-2], x[:, :, 1::3]], axis=-1),
    "index": lambda x: ops.stack([x[:, :, 0], x[..., -1]], axis=-1),
    "new_axis": lambda x: x[:, :, None, 1:] * x[..., :2, None],
    "last_then_slice": lambda x: x[:, -1][:, 1:-1],
    "last_of_folded": lambda x: _folded(x)[:, -1, 1],
    "split": lambda x: [part * 2.0 for part in ops.split(x, 3, axis=-1)],
    "split_unevenly": lambda x: [part + 1.0 for part in ops.split(x, [1, 3], axis=2)],
    "unstack": lambda x: ops.stack(ops.unstack(x, axis=2)[1:4], axis=-1),
    "expand_and_squeeze": lambda x: ops.squeeze(ops.relu(ops.expand_dims(x, 2)), axis=2),
    "transpose": lambda x: ops.transpose(_folded(x), (0, 1, 3, 2)),
    "swap": lambda x: ops.swapaxes(_folded(x), -1, -2),
    "move": lambda x: ops.moveaxis(_folded(x), 3, 2),
    "time_last_and_back": lambda x: ops.transpose(ops.relu(ops.transpose(x, (0, 2, 1))), (0, 2, 1)),
    "permute": lambda x: layers.Permute((1, 3, 2))(_folded(x)),
    "reshape": lambda x: ops.reshape(ops.tanh(_folded(x)), (-1, ops.shape(x)[1], 6)) if x.shape[1] else _folded(x),
    "flatten_each": lambda x: layers.TimeDistributed(layers.Flatten())(_folded(x)),
    "flatten_last": lambda x: layers.Dense(2)(layers.Flatten()(_folded(x)[:, -1])),
    "tile": lambda x: ops.tile(x, (1, 1, 2)),
    "repeat": lambda x: ops.repeat(x, 2, axis=-1),
    "roll": lambda x: ops.roll(x, 2, axis=-1),
    "flip": lambda x: ops.flip(x, axis=-1),
    "take": lambda x: ops.take(x, [4, 0, 0], axis=2),
    "hstack": lambda x: ops.hstack([x[:, -1], x[:, -1] * 2.0]),
}  # fmt: skip


REDUCING: dict[str, Callable[[Any], Any]] = {
    "mean": lambda x: ops.mean(x, axis=-1, keepdims=True),
    "mean_of_two_axes": lambda x: ops.mean(_folded(x), (2, 3), True),
    "mean_of_time": lambda x: ops.mean(x, axis=1), "max_of_time": lambda x: ops.max(x, axis=1),
    "sum": lambda x: ops.sum(x, axis=-1, keepdims=True), "prod": lambda x: ops.prod(x, axis=2, keepdims=True),
    "max": lambda x: ops.max(_folded(x), axis=-1), "min": lambda x: ops.min(_folded(x), axis=2),
    "var": lambda x: ops.var(x, axis=-1, keepdims=True), "std": lambda x: x / ops.std(x, axis=-1, keepdims=True),
    "moments": lambda x: [1.0 * part for part in ops.moments(x, [-1], keepdims=True)],
    "logsumexp": lambda x: x - ops.logsumexp(x, axis=-1, keepdims=True),
    "norm": lambda x: ops.norm(_folded(x), axis=-1), "norm_1": lambda x: ops.norm(_folded(x), ord=1, axis=2),
    "normalize": lambda x: ops.normalize(x, axis=-1), "normalize_1": lambda x: ops.normalize(x, axis=-1, order=1),
    "any": lambda x: ops.where(ops.any(x > 1.2, axis=-1, keepdims=True), x, 0.5),
    "all": lambda x: ops.where(ops.all(x > -1.2, axis=-1, keepdims=True), x, 0.5),
    "softmax": lambda x: ops.softmax(_folded(x), axis=2),
    "softmax_of_both": lambda x: layers.Softmax((2, 3))(_folded(x)),
    "einsum": lambda x: ops.einsum("btij,btkj->btik", _folded(x), _folded(ops.relu(x))),
    "einsum_dot": lambda x: ops.einsum("btij,btj->bti", _folded(x), x[..., :3]),
    "matmul_of_two": lambda x: ops.matmul(_folded(x), ops.swapaxes(_folded(x), 2, 3)),
    "matmul": lambda x: ops.matmul(x, np.linspace(-1, 1, 12).reshape(6, 2).astype("float32")),
    "dot_with_a_vector": lambda x: ops.expand_dims(ops.dot(x, np.linspace(-1, 1, 6).astype("float32")), -1),
    "dot_layer": lambda x: layers.Dot(1, normalize=True)([x[:, -1], layers.Dense(6)(x)[:, -1]]),
}  # fmt: skip


EQUATIONS = {
    "...x,xy->...y": 4,  # it knows nothing of time
    "abc,cd->abd": (None, 4),
    "abc,cde->abde": (None, 2, 3),
    "abcd,cde->abe": (None, 5),
    "abcd,de->abce": (None, 2, 4),
    "abcd,cde->abce": (None, 2, 4),
    "abcd,ce->abde": (None, 3, 4),
    "abcd,cd->ab": (None,),  # an output of one number a frame
}


def _einsum_dense(equation: str, shape: Any) -> Build:
    def build() -> Any:
        first = frames()
        x = _folded(first) if equation.startswith("abcd") else first
        bias = equation[-1] if shape != (None,) else None
        return keras.Model(first, layers.EinsumDense(equation, shape, bias_axes=bias, activation="tanh")(x))

    return build


def _normalizing() -> dict[str, Callable[[Any], Any]]:
    timed = layers.TimeDistributed
    return {
        "unit_norm": layers.UnitNormalization(),
        "rms_norm": layers.RMSNormalization(),
        "rms_norm_at_the_end": lambda x: layers.RMSNormalization()(x[:, -1]),
        "group_norm_each": timed(layers.GroupNormalization(3)),
        "group_norm_bare": timed(layers.GroupNormalization(2, center=False, scale=False)),
        "group_norm_at_the_end": lambda x: layers.GroupNormalization(2)(x[:, -1]),
        "layer_norm_of_two_axes": lambda x: layers.LayerNormalization(axis=(2, 3))(_folded(x)),
        "layer_norm_of_the_first": lambda x: layers.LayerNormalization(axis=2)(_folded(x)),
        "layer_norm_each": timed(layers.LayerNormalization()),
        "batch_norm_folded": lambda x: layers.BatchNormalization()(_folded(x)),
        "batch_norm_of_the_first": lambda x: layers.BatchNormalization(axis=2)(_folded(x)),
        "dense_folded": lambda x: layers.Dense(4, activation="relu")(_folded(x)),
        "spectral_norm": layers.SpectralNormalization(layers.Dense(3)),
        "relu_threshold": layers.ReLU(threshold=0.5),
        "relu_everything": layers.ReLU(negative_slope=0.2, threshold=0.4, max_value=0.9),
        "wrapped_twice": lambda x: timed(timed(layers.Dense(2, activation="softmax")))(_folded(x)),
        "activation_of_one's_own": layers.Dense(3, activation=lambda x: x * ops.sigmoid(1.7 * x)),
        "activation_layer_inside": layers.Dense(3, activation=layers.LeakyReLU(negative_slope=0.3)),
        "activation_of_keras_ops": layers.Dense(3, activation=ops.gelu),
    }


def _wrapped_model() -> Any:
    first = keras.Input((2, 3))
    inner = keras.Model(first, layers.Dense(2)(layers.Flatten()(layers.Permute((2, 1))(first))))
    return chain(layers.Reshape((-1, 2, 3)), layers.TimeDistributed(inner), layers.GRU(3, return_sequences=True))


class Gated(layers.Layer):  # type: ignore[misc]
    """A layer of one's own: two Dense, a weight, and functions of keras.ops."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.value, self.gate = layers.Dense(units), layers.Dense(units, activation="sigmoid")

    def build(self, shape: Any) -> None:
        self.value.build(shape)
        self.gate.build(shape)
        self.offset = self.add_weight(shape=(self.value.units,), name="bias")

    def compute_output_shape(self, shape: Any) -> Any:
        return (*shape[:-1], self.value.units)

    def call(self, x: Any, training: bool = False) -> Any:
        y = self.value(x) * self.gate(x) + self.offset
        return ops.tanh(y) if not training else y


class Stack(layers.Layer):  # type: ignore[misc]
    """Layers of one's own inside one of one's own, with a state and two outputs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first, self.second = Gated(5), layers.GRU(3, return_sequences=True)

    def build(self, shape: Any) -> None:
        self.first.build(shape)
        self.second.build((*shape[:-1], 5))

    def call(self, x: Any) -> Any:
        gated = self.first(x)
        return gated, self.second(gated)


def _two_of_ones_own() -> Any:
    first = frames()
    left, right = Stack()(first)
    return keras.Model(first, [layers.Dense(2)(left), right])


OPERATIONS: dict[str, Build] = {
    "elementwise": _all_of(ELEMENTWISE),
    "moving": _all_of(MOVING),
    "reducing": _all_of(REDUCING),
    "normalizing": lambda: _all_of(_normalizing())(),
    "wrapped_model": _wrapped_model,
    **{f"einsum_{equation}": _einsum_dense(equation, shape) for equation, shape in EQUATIONS.items()},
    "layer_of_one's_own": lambda: chain(Gated(4)),
    "layers_of_one's_own": _two_of_ones_own,
    "wrapped_layer_of_one's_own": lambda: chain(layers.TimeDistributed(Gated(4))),
}

"""Quantization-aware fine-tuning: a network learns to live with the rounding of its weights and of what they multiply.

After Jacob et al. 2018, arXiv:1712.05877: in the forward pass values are rounded as the converted file rounds them, and
gradients pass as if they were not. In a recurrent cell that is done inside the step: the previous output is rounded
where a product reads it, and stays as it is where the cell adds to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from edgernn.errors import UsageError

__all__ = ["BITS", "eight_bits", "quantization_aware", "rounded", "settle"]

BITS = {"int8": 8, "int4": 4}
"""Bits of a weight in each scheme that can be trained for; what weights multiply has eight in both."""
BLOCKS = (32, 16)  # in four bits, so many inputs share a scale: the size that fills up with fewer zeros
BOUNDED = ("tanh", "sigmoid", "hard_sigmoid", "softsign")  # outputs between -1 and 1
LEAST = 1e-12

register = keras.saving.register_keras_serializable(package="edgernn")


def quantization_aware(model: keras.Model, scheme: str) -> keras.Model:
    """Return a copy of `model`, weights and all, that computes as its conversion to `scheme` will.

    LSTM, GRU, SimpleRNN, Dense and Conv1D are replaced; all other layers, such as normalizations, are copied. Raises
    `UsageError` for another scheme, for dropout inside a cell, and for a model in which there is nothing to replace.
    """
    if scheme not in BITS:
        raise UsageError(f"there is no training for '{scheme}'; choose one of {', '.join(BITS)}")
    bits = BITS[scheme]
    aware = keras.models.clone_model(model, clone_function=lambda layer: _aware(layer, bits))
    if not any(isinstance(layer, _REPLACED) for layer in aware.layers):
        raise UsageError(
            f"{model.name} has no layer whose products could be quantized: LSTM, GRU, SimpleRNN, Dense, Conv1D"
        )
    aware.set_weights(model.get_weights())
    return aware


def settle(aware: keras.Model, model: keras.Model) -> None:
    """Give `model`, of which `aware` is the trained copy, its weights, rounded as a conversion will round them."""
    for layer in aware.layers:
        if isinstance(layer, _REPLACED):
            layer.settle()
    model.set_weights(aware.get_weights())


def rounded(kernel: Any, bits: int) -> Any:
    """Round weights `(..., out)` to the levels of the file; gradients pass.

    In 8 bits each output has a scale, -127 to 127. In 4 bits each block of 16 or 32 inputs of an output has one, and
    its largest element is at level -8: the levels of ONNX files. TFLite has others, for want of negative scales.
    """
    shape = ops.shape(kernel)
    matrix = ops.reshape(kernel, (-1, shape[-1]))
    result = _in_columns(matrix) if bits == 8 else _in_blocks(matrix)
    return _straight_through(kernel, ops.reshape(result, shape))


def _in_columns(matrix: Any) -> Any:
    scale = ops.maximum(ops.max(ops.abs(matrix), axis=0), LEAST) / 127.0
    return ops.round(matrix / scale) * scale


def _in_blocks(matrix: Any) -> Any:
    rows, columns = matrix.shape
    block = min(BLOCKS, key=lambda size: -(-rows // size) * size)
    padded = ops.pad(matrix, ((0, -rows % block), (0, 0)))
    blocks = ops.reshape(padded, (-1, block, columns))
    low, high = ops.min(blocks, axis=1, keepdims=True), ops.max(blocks, axis=1, keepdims=True)
    largest = ops.where(high > -low, high, low)
    scale = ops.where(ops.abs(largest) < LEAST, LEAST, largest) / -8.0
    levels = ops.clip(ops.round(blocks / scale), -8, 7)
    return ops.reshape(levels * scale, (-1, columns))[:rows]


def eight_bits(values: Any) -> Any:
    """Round to 256 levels between the least and the greatest value of all, zero included; gradients pass."""
    low, high = ops.minimum(ops.min(values), 0.0), ops.maximum(ops.max(values), 0.0)
    scale = ops.maximum(high - low, LEAST) / 255.0
    return _straight_through(values, ops.round(values / scale) * scale)


def _unit_levels(values: Any) -> Any:
    return _straight_through(values, ops.round(values * 127.0) / 127.0)


def _straight_through(values: Any, result: Any) -> Any:
    return values + ops.stop_gradient(result - values)


class _Aware:
    """What the replaced layers have in common: how many bits a weight has."""

    bits = 8

    def get_config(self) -> dict[str, Any]:
        """Return what a copy of the layer is made of."""
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return {**config, "bits": self.bits}


class _Product(_Aware):
    """A layer of one product: its weights and its input are rounded."""

    def __init__(self, *arguments: Any, bits: int = 8, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.bits = bits

    @property
    def kernel(self) -> Any:
        """The weights as the product reads them."""
        return rounded(super().kernel, self.bits)  # type: ignore[misc]

    def call(self, inputs: Any, **options: Any) -> Any:
        """Compute as the file will."""
        return super().call(eight_bits(inputs), **options)  # type: ignore[misc]

    def settle(self) -> None:
        """Round the weights for good."""
        super().kernel.assign(self.kernel)  # type: ignore[misc]


@register
class AwareDense(_Product, layers.Dense):  # type: ignore[misc]
    """Dense."""


@register
class AwareConv1D(_Product, layers.Conv1D):  # type: ignore[misc]
    """Conv1D."""


class _Cell(_Aware):
    """A recurrent cell: weights are rounded once for all frames, states in every step."""

    def __init__(self, *arguments: Any, bits: int = 8, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.bits = bits
        bounded = keras.activations.serialize(self.activation) in BOUNDED  # type: ignore[attr-defined]
        self.read: Callable[[Any], Any] = _unit_levels if bounded else eight_bits

    def round_weights(self) -> None:
        """Round the weights; the steps that follow read them."""
        self.matrices = tuple(rounded(weights, self.bits) for weights in (self.kernel, self.recurrent_kernel))  # type: ignore[attr-defined]

    def product(self, which: int, values: Any, bias: Any) -> Any:
        """Multiply values that are rounded already with the input's weights (0) or the recurrent ones (1)."""
        result = ops.matmul(values, self.matrices[which])
        return result if bias is None else result + bias

    def settle(self) -> None:
        """Round the weights for good."""
        for weights in (self.kernel, self.recurrent_kernel):  # type: ignore[attr-defined]
            weights.assign(rounded(weights, self.bits))


@register
class AwareSimpleRNNCell(_Cell, layers.SimpleRNNCell):  # type: ignore[misc]
    """The cell of SimpleRNN."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        """Take a step."""
        total = self.product(0, inputs, self.bias) + self.product(1, self.read(states[0]), None)
        h = self.activation(total)
        return h, [h]


@register
class AwareLSTMCell(_Cell, layers.LSTMCell):  # type: ignore[misc]
    """The cell of LSTM."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        """Take a step; the cell state is never rounded."""
        h, c = states
        total = self.product(0, inputs, self.bias) + self.product(1, self.read(h), None)
        i, f, g, o = ops.split(total, 4, axis=-1)
        gate = self.recurrent_activation
        c = gate(f) * c + gate(i) * self.activation(g)
        h = gate(o) * self.activation(c)
        return h, [h, c]


@register
class AwareGRUCell(_Cell, layers.GRUCell):  # type: ignore[misc]
    """The cell of GRU."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        """Take a step; what the update gate blends is not rounded."""
        h = states[0]
        bias = self.bias if self.use_bias else None
        x_bias, h_bias = (bias[0], bias[1]) if bias is not None and self.reset_after else (bias, None)
        x_z, x_r, x_n = ops.split(self.product(0, inputs, x_bias), 3, axis=-1)
        if self.reset_after:
            h_z, h_r, h_n = ops.split(self.product(1, self.read(h), h_bias), 3, axis=-1)
        else:
            gates, candidate = self.matrices[1][:, : 2 * self.units], self.matrices[1][:, 2 * self.units :]
            h_z, h_r = ops.split(ops.matmul(self.read(h), gates), 2, axis=-1)
        z, r = self.recurrent_activation(x_z + h_z), self.recurrent_activation(x_r + h_r)
        h_n = r * h_n if self.reset_after else ops.matmul(self.read(r * h), candidate)
        n = self.activation(x_n + h_n)
        h = z * h + (1.0 - z) * n
        return h, [h]


@register
class AwareRNN(layers.RNN):  # type: ignore[misc]
    """A recurrent layer of one of these cells."""

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
        """Take all steps."""
        self.cell.round_weights()
        return super().call(eight_bits(sequences), initial_state=initial_state, mask=mask, training=training)

    def settle(self) -> None:
        """Round the weights for good."""
        self.cell.settle()


_REPLACED = (AwareDense, AwareConv1D, AwareRNN)
_CELLS: dict[Any, Any] = {layers.LSTM: AwareLSTMCell, layers.GRU: AwareGRUCell, layers.SimpleRNN: AwareSimpleRNNCell}
_LOOPS = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll", "name")


def _aware(layer: Any, bits: int) -> Any:
    for kind, aware in ((layers.Dense, AwareDense), (layers.Conv1D, AwareConv1D)):
        if type(layer) is kind:
            return aware.from_config({**layer.get_config(), "bits": bits})
    if type(layer) not in _CELLS:
        return layer.__class__.from_config(layer.get_config())
    if layer.dropout or layer.recurrent_dropout:
        raise UsageError(f"layer '{layer.name}' has dropout inside its cell, which fine-tuning does not: set it to 0")
    cell = _CELLS[type(layer)].from_config({**layer.cell.get_config(), "bits": bits})
    config = layer.get_config()
    return AwareRNN(cell, **{name: config[name] for name in _LOOPS})

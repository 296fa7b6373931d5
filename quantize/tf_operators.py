"""Each operator of the step graph as TensorFlow operations that TFLite has kernels for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import tensorflow as tf

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.graph import array_of, attribute, shape_of
from edgernn.quantize.tf_windows import convolution, pool

__all__ = ["lower"]

Lower = Callable[[ir.Node, Sequence[Any]], Any]
_TABLE: dict[str, Lower] = {}


def lower(node: ir.Node, inputs: Sequence[Any]) -> list[Any]:
    """Return the node's outputs as TensorFlow tensors."""
    if node.op_type not in _TABLE:
        raise UnsupportedLayerError(f"{node.name}: the operator {node.op_type} has no form in TFLite; use --to onnx")
    result = _TABLE[node.op_type](node, inputs)
    return list(result) if isinstance(result, list | tuple) else [result]


def _lowers(*op_types: str) -> Callable[[Lower], Lower]:
    def enter(function: Lower) -> Lower:
        _TABLE.update(dict.fromkeys(op_types, function))
        return function

    return enter


def _softplus(x: Any) -> Any:
    return tf.maximum(x, 0.0) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))


def _erf(x: Any) -> Any:
    """With a polynomial, for want of a kernel (Abramowitz and Stegun 1964, formula 7.1.26: within 1.5e-7)."""
    t = 1.0 / (1.0 + 0.3275911 * tf.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return tf.sign(x) * (1.0 - series * tf.exp(-x * x))


def _gather(x: Any, places: Any, axis: int) -> Any:
    """Places that are known are counted from the beginning: TFLite knows no others."""
    known = tf.get_static_value(places)
    return tf.gather(x, places if known is None else known % x.shape[axis], axis=axis)


def _tile(x: Any, repeats: Sequence[int]) -> Any:
    """With CONCATENATION, for TensorFlow Lite Micro has no TILE."""
    for axis, times in enumerate(repeats):
        x = x if times == 1 else tf.concat([x] * times, axis)
    return x


def _hard_sigmoid(x: Any, alpha: float, beta: float) -> Any:
    """With RELU6, which has an int8 kernel, and not with MINIMUM and MAXIMUM."""
    return tf.nn.relu6(x * (6.0 * alpha) + 6.0 * beta) * (1.0 / 6.0)


def _elu(x: Any, alpha: float) -> Any:
    return tf.nn.elu(x) if alpha == 1.0 else tf.maximum(x, 0.0) + alpha * (tf.exp(tf.minimum(x, 0.0)) - 1.0)


def _selu(x: Any, alpha: float, gamma: float) -> Any:
    return gamma * (tf.maximum(x, 0.0) + alpha * (tf.exp(tf.minimum(x, 0.0)) - 1.0))


PLAIN: dict[str, Callable[..., Any]] = {
    "Abs": tf.abs, "Add": tf.add, "And": tf.logical_and, "Ceil": tf.math.ceil, "Cos": tf.cos, "Div": tf.divide,
    "Equal": tf.equal, "Erf": _erf, "Exp": tf.exp, "Floor": tf.floor, "Greater": tf.greater,
    "GreaterOrEqual": tf.greater_equal, "Identity": tf.identity, "Less": tf.less, "LessOrEqual": tf.less_equal,
    "Log": tf.math.log, "Max": tf.maximum, "Min": tf.minimum, "Mul": tf.multiply, "Neg": tf.negative,
    "Not": tf.logical_not, "Or": tf.logical_or, "Pow": tf.pow, "Relu": tf.nn.relu, "Round": tf.round,
    "Sigmoid": tf.sigmoid, "Sign": tf.sign, "Sin": tf.sin, "Softplus": _softplus,
    "Softsign": lambda x: x / (1.0 + tf.abs(x)), "Sqrt": tf.sqrt, "Sub": tf.subtract, "Tanh": tf.tanh,
    "Where": tf.where, "Xor": tf.not_equal,
}  # fmt: skip
for _name, _function in PLAIN.items():
    _TABLE[_name] = lambda node, inputs, function=_function: function(*inputs)  # type: ignore[misc]

_TABLE.update(
    {
        **dict.fromkeys(("AveragePool", "MaxPool"), pool),
        "Cast": lambda node, i: tf.cast(i[0], ir.DataType(attribute(node, "to", 1)).numpy()),
        "Clip": lambda node, i: tf.clip_by_value(i[0], i[1], i[2]),
        "Conv": convolution,
        "Concat": lambda node, i: tf.concat(i, attribute(node, "axis", 0)),
        "Elu": lambda node, i: _elu(i[0], attribute(node, "alpha", 1.0)),
        "HardSigmoid": lambda node, i: _hard_sigmoid(i[0], attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)),
        "LeakyRelu": lambda node, i: tf.nn.leaky_relu(i[0], attribute(node, "alpha", 0.01)),
        "LogSoftmax": lambda node, i: tf.nn.log_softmax(i[0], attribute(node, "axis", -1)),
        "PRelu": lambda node, i: tf.maximum(i[0], 0.0) + i[1] * tf.minimum(i[0], 0.0),
        "Reshape": lambda node, i: tf.reshape(i[0], shape_of(node.outputs[0])),
        "Selu": lambda node, i: _selu(i[0], attribute(node, "alpha", 1.673), attribute(node, "gamma", 1.051)),
        "Softmax": lambda node, i: tf.nn.softmax(i[0], attribute(node, "axis", -1)),
        "Tile": lambda node, i: _tile(i[0], array_of(node.inputs[1]).tolist()),
        "Transpose": lambda node, i: tf.transpose(i[0], attribute(node, "perm", None)),
    }
)


REDUCTIONS = {
    "ReduceMax": tf.reduce_max,
    "ReduceMean": tf.reduce_mean,
    "ReduceMin": tf.reduce_min,
    "ReduceProd": tf.reduce_prod,
    "ReduceSum": tf.reduce_sum,
}


@_lowers(*REDUCTIONS)
def _reduce(node: ir.Node, inputs: Sequence[Any]) -> Any:
    axes = array_of(node.inputs[1]).tolist() if len(node.inputs) > 1 else attribute(node, "axes", None)
    return REDUCTIONS[node.op_type](inputs[0], axes, keepdims=bool(attribute(node, "keepdims", 1)))


@_lowers("Slice")
def _slice(node: ir.Node, inputs: Sequence[Any]) -> Any:
    starts, stops, axes, *steps = (array_of(value).tolist() for value in node.inputs[1:])
    begin, size = [0] * len(inputs[0].shape), list(inputs[0].shape)
    where = [slice(None)] * len(size)
    for place, axis in enumerate(axes):
        where[axis] = slice(starts[place], stops[place], steps[0][place] if steps else 1)
        start, stop, _ = where[axis].indices(size[axis])  # counted from the beginning
        begin[axis], size[axis] = start, stop - start
    plain = not steps or set(steps[0]) == {1}
    return tf.slice(inputs[0], begin, size) if plain else inputs[0][tuple(where)]


@_lowers("Split")
def _split(node: ir.Node, inputs: Sequence[Any]) -> Any:
    """Parts of one size are a SPLIT; others are SLICEs, because XNNPACK does not take SPLIT_V."""
    axis = attribute(node, "axis", 0)
    sizes = array_of(node.inputs[1]).tolist() if len(node.inputs) > 1 else [0] * len(node.outputs)
    if len(set(sizes)) == 1:
        return tf.split(inputs[0], len(sizes), axis)
    shape = list(inputs[0].shape)
    parts = []
    for place, size in enumerate(sizes):
        begin, extent = [0] * len(shape), list(shape)
        begin[axis], extent[axis] = sum(sizes[:place]), size
        parts.append(tf.slice(inputs[0], begin, extent))
    return parts


@_lowers("MatMul")
def _matmul(node: ir.Node, inputs: Sequence[Any]) -> Any:
    """With a matrix in two dimensions, so that it becomes FULLY_CONNECTED and not BATCH_MATMUL."""
    x, matrix = inputs
    if len(matrix.shape) > 2:
        return tf.matmul(x, matrix)
    flat = x if len(x.shape) == 2 else tf.reshape(x, (-1, x.shape[-1]))
    product = tf.matmul(flat, matrix)
    return product if len(x.shape) == 2 else tf.reshape(product, (*x.shape[:-1], matrix.shape[-1]))


@_lowers("LayerNormalization")
def _layer_norm(node: ir.Node, inputs: Sequence[Any]) -> Any:
    rank = len(inputs[0].shape)
    axes = list(range(attribute(node, "axis", -1) % rank, rank))
    centred = inputs[0] - tf.reduce_mean(inputs[0], axes, keepdims=True)
    variance = tf.reduce_mean(centred * centred, axes, keepdims=True)
    result = centred * tf.math.rsqrt(variance + attribute(node, "epsilon", 1e-5)) * inputs[1]
    return result + inputs[2] if len(inputs) > 2 else result


@_lowers("Pad")
def _pad(node: ir.Node, inputs: Sequence[Any]) -> Any:
    mode = attribute(node, "mode", "constant")
    if mode not in ("constant", "reflect"):
        raise UnsupportedLayerError(f"{node.name}: padding by {mode} has no form in TFLite; use --to onnx")
    pairs = array_of(node.inputs[1]).reshape(2, -1).T
    blank = float(array_of(node.inputs[2])) if len(node.inputs) > 2 and node.inputs[2] is not None else 0.0
    return tf.pad(inputs[0], pairs, mode, blank)


@_lowers("Gather")
def _take(node: ir.Node, inputs: Sequence[Any]) -> Any:
    """Neighbours are a SLICE and elements several times a CONCATENATION, which XNNPACK takes and GATHER it does not."""
    x, axis = inputs[0], attribute(node, "axis", 0) % len(inputs[0].shape)
    if node.inputs[1] is None or not node.inputs[1].is_initializer():
        return _gather(x, inputs[1], axis)
    size = x.shape[axis]
    places = array_of(node.inputs[1]) % size
    if (places == places.reshape(-1)[:1] + np.arange(places.size).reshape(places.shape)).all():
        begin, extent = [0] * len(x.shape), list(x.shape)
        begin[axis], extent[axis] = int(places.reshape(-1)[0]), places.size
        return tf.reshape(tf.slice(x, begin, extent), [*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]])
    times = places.size // size
    if places.tolist() != np.repeat(np.arange(size), times).tolist():
        return _gather(x, inputs[1], axis)
    repeated = tf.concat([tf.expand_dims(x, axis + 1)] * times, axis + 1)
    return tf.reshape(repeated, [*x.shape[:axis], -1, *x.shape[axis + 1 :]])

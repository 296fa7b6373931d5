"""Convolutions and pools of the step graph as TensorFlow operations, in the layout of TFLite.

ONNX has (batch, channels, axes...) and TFLite (batch, height, width, channels): one axis is the width, two are both.
The transpositions to and fro cancel with their neighbours. Over time there is no padding (it is in the past that the
step carries); over frequency there may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import tensorflow as tf

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.graph import array_of, attribute

__all__ = ["convolution", "pool"]

LEAST = float(np.finfo(np.float32).min)
Pads = list[tuple[int, int]]


def convolution(node: ir.Node, inputs: Sequence[Any]) -> Any:
    """A CONV_2D for each group, or one DEPTHWISE_CONV_2D."""
    x = _channels_last(inputs[0])
    weights, groups = array_of(node.inputs[1]), attribute(node, "group", 1)
    weights = weights.reshape(*weights.shape[:2], *_both(weights.shape[2:]))
    strides, dilations = _pair(node, "strides"), _pair(node, "dilations")
    spans = [step * (size - 1) + 1 for size, step in zip(weights.shape[2:], dilations, strict=True)]
    pads, padding = _pads(node), "VALID"
    if any(map(any, pads)):
        padding = "SAME" if pads == _same(x, spans, strides) else "VALID"
        x = x if padding == "SAME" else tf.pad(x, [(0, 0), *pads, (0, 0)])
    if groups == x.shape[-1] and groups > 1:
        kernel = weights.reshape(groups, -1, *weights.shape[2:]).transpose(2, 3, 0, 1)
        moves = [max(strides)] * 2 if len(inputs[0].shape) == 3 else strides  # TensorFlow likes them equal
        y = tf.nn.depthwise_conv2d(x, kernel, (1, *moves, 1), padding, dilations=dilations)
    else:
        kernels = np.split(weights.transpose(2, 3, 1, 0), groups, -1)
        parts = zip([x] if groups == 1 else tf.split(x, groups, -1), kernels, strict=True)
        y = tf.concat([tf.nn.conv2d(part, kernel, strides, padding, dilations=dilations) for part, kernel in parts], -1)
    return _channels_first(y + inputs[2] if len(inputs) > 2 else y, len(inputs[0].shape))


def pool(node: ir.Node, inputs: Sequence[Any]) -> Any:
    """One pool; where there is padding along an axis, one for that axis and one for the other."""
    if any(step > 1 for step in attribute(node, "dilations", [1])):
        raise UnsupportedLayerError(f"{node.name}: a dilated pool has no form in TFLite; use --to onnx")
    x, sizes, strides, pads = (
        _channels_last(inputs[0]),
        _pair(node, "kernel_shape"),
        _pair(node, "strides"),
        _pads(node),
    )
    average = node.op_type == "AveragePool"
    if average and attribute(node, "count_include_pad", 0):
        x, pads = tf.pad(x, [(0, 0), *pads, (0, 0)]) if any(map(any, pads)) else x, [(0, 0), (0, 0)]
    function = tf.nn.avg_pool2d if average else tf.nn.max_pool2d
    plain = [axis for axis in (0, 1) if not any(pads[axis])]
    if plain:
        x = function(x, *(_only(plain, values) for values in (sizes, strides)), "VALID")
    for axis in {0, 1} - set(plain):
        x = _padded_pool(x, axis, sizes[axis], strides[axis], pads[axis], average)
    return _channels_first(x, len(inputs[0].shape))


def _padded_pool(x: Any, axis: int, size: int, stride: int, pads: tuple[int, int], average: bool) -> Any:
    """Along one axis; what it is padded with does not take part in it."""
    window, moves = _only([axis], [size, size]), _only([axis], [stride, stride])
    function = tf.nn.avg_pool2d if average else tf.nn.max_pool2d
    if _same(x, window, moves)[axis] == pads:
        return function(x, window, moves, "SAME")
    ends = [(0, 0)] * 4
    ends[1 + axis] = pads
    if not average:
        return tf.nn.max_pool2d(
            tf.pad(x, ends, constant_values=float(np.finfo(np.float32).min)), window, moves, "VALID"
        )
    real = np.pad(np.ones(x.shape[1 + axis]), pads)
    share = np.lib.stride_tricks.sliding_window_view(real, size)[::stride].mean(-1).astype(np.float32)
    return tf.nn.avg_pool2d(tf.pad(x, ends), window, moves, "VALID") * (1 / share).reshape([-1] + [1] * (2 - axis))


def _channels_last(x: Any) -> Any:
    return tf.expand_dims(tf.transpose(x, (0, 2, 1)), 1) if len(x.shape) == 3 else tf.transpose(x, (0, 2, 3, 1))


def _channels_first(y: Any, rank: int) -> Any:
    return tf.transpose(tf.squeeze(y, 1), (0, 2, 1)) if rank == 3 else tf.transpose(y, (0, 3, 1, 2))


def _both(values: Sequence[int]) -> list[int]:
    """Return a value for each of two axes, where there may be one."""
    return [1] * (2 - len(values)) + [int(value) for value in values]


def _pair(node: ir.Node, name: str) -> list[int]:
    return _both(attribute(node, name, [1]))


def _pads(node: ir.Node) -> Pads:
    ends = attribute(node, "pads", [0, 0])
    pairs = list(zip(ends[: len(ends) // 2], ends[len(ends) // 2 :], strict=True))
    return [(0, 0)] * (2 - len(pairs)) + pairs


def _only(axes: Sequence[int], values: Sequence[int]) -> list[int]:
    """Return the values of these axes, and 1 for the others."""
    return [value if axis in axes else 1 for axis, value in enumerate(values)]


def _same(x: Any, spans: Sequence[int], strides: Sequence[int]) -> Pads:
    """Return what TensorFlow pads with for "SAME"."""
    totals = [max(s - (n % m or m), 0) for n, s, m in zip(x.shape[1:3], spans, strides, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]

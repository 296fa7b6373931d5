"""MultiHeadAttention, GroupedQueryAttention, Attention and AdditiveAttention, as products around a Softmax.

Masks between frames are written with Trilu: minus infinity where a frame does not see another one. A mask of the places
of a memory (`value_mask`, or an `attention_mask` that is computed) is added to the scores as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.from_keras import Call, Emitter, emits, refuse
from edgernn.quantize.layer_call import Tensor

__all__: list[str] = []

UNSTREAMED = ("query_mask", "key_mask", "return_attention_scores")
HIDDEN = -1e9  # what Keras adds to the score of a place that is masked


@emits("MultiHeadAttention", "GroupedQueryAttention")
def _heads(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    query, value, key = _sequences(layer, call, graph, ("query", "value", "key"))
    heads = _Heads.of(layer)
    scores = graph.op(
        "MatMul",
        heads.asking(_project(layer._query_dense, query, graph), graph),
        heads.asked(_project(layer._key_dense, key, graph), graph),
    )
    scaled = graph.op("Mul", scores, graph.constant(heads.size**-0.5, "scale"))
    window = getattr(layer, "_sliding_window", None) or heads.window
    masked = _masked(layer, scaled, call, graph, len(heads.shape), window)
    shares = graph.op("Softmax", masked, axis=-1)
    output = graph.op("MatMul", shares, heads.given(_project(layer._value_dense, value, graph), graph))
    output = heads.joined(output, graph)
    if getattr(layer, "_use_gate", False) or getattr(layer, "use_gate", False):
        output = graph.op("Mul", output, graph.op("Sigmoid", _project(layer._gate_dense, query, graph)))
    output = _project(layer._output_dense, output, graph, inner=2)
    shape = layer._output_dense.kernel.shape[2:]
    return output if len(shape) == 1 else _reshape(output, shape, graph)


@dataclass(frozen=True)
class _Heads:
    """How heads lie beside one another; `groups` of them share keys and values."""

    count: int
    size: int
    value_size: int
    groups: int = 1
    window: int | None = None

    @classmethod
    def of(cls, layer: Any) -> _Heads:
        if type(layer).__name__ == "MultiHeadAttention":
            return cls(layer.num_heads, layer.key_dim, layer.value_dim)
        shared, size = layer.num_key_value_heads, layer.head_dim
        return cls(shared, size, size, layer.num_query_heads // shared, layer.sliding_window)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count,) if self.groups == 1 else (self.count, self.groups)

    def asking(self, x: ir.Value, graph: Emitter) -> ir.Value:
        """(batch, time, heads * size) to (batch, heads..., time, size)."""
        axes = len(self.shape)
        split = _reshape(x, (*self.shape, self.size), graph)
        return graph.op("Transpose", split, perm=[0, *range(2, axes + 2), 1, axes + 2])

    def asked(self, x: ir.Value, graph: Emitter) -> ir.Value:
        """Keys, to (batch, heads..., size, time)."""
        axes = len(self.shape)
        split = _reshape(x, self._shared(self.size), graph)
        return graph.op("Transpose", split, perm=[0, *range(2, axes + 3), 1])

    def given(self, x: ir.Value, graph: Emitter) -> ir.Value:
        """Values, to (batch, heads..., time, size)."""
        axes = len(self.shape)
        split = _reshape(x, self._shared(self.value_size), graph)
        return graph.op("Transpose", split, perm=[0, *range(2, axes + 2), 1, axes + 2])

    def joined(self, x: ir.Value, graph: Emitter) -> ir.Value:
        """(batch, heads..., time, size) to (batch, time, heads * size)."""
        axes = len(self.shape)
        back = graph.op("Transpose", x, perm=[0, axes + 1, *range(1, axes + 1), axes + 2])
        return _reshape(back, (self.count * self.groups * self.value_size,), graph)

    def _shared(self, size: int) -> tuple[int, ...]:
        return (self.count, *[1] * (len(self.shape) - 1), size)


@emits("Attention", "AdditiveAttention", masked="given")
def _attention(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    query, value, key = _sequences(layer, call, graph, ("inputs",))
    dot = type(layer).__name__ == "Attention" and layer.score_mode == "dot"
    scores = (_dot if dot else _additive)(layer, query, key, graph)
    shares = graph.op("Softmax", _masked(layer, scores, call, graph, 0, None), axis=-1)
    return graph.op("MatMul", shares, value)


def _dot(layer: Any, query: ir.Value, key: ir.Value, graph: Emitter) -> ir.Value:
    scores = graph.op("MatMul", query, graph.op("Transpose", key, perm=[0, 2, 1]))
    return graph.op("Mul", scores, graph.constant(np.asarray(layer.scale), "scale")) if layer.use_scale else scores


def _additive(layer: Any, query: ir.Value, key: ir.Value, graph: Emitter) -> ir.Value:
    """Bahdanau et al. 2014 (arXiv:1409.0473): the scale is inside the Tanh for Attention, behind it for the other."""
    rows = graph.op("Unsqueeze", query, graph.constant([2], "axis"))
    total = graph.op("Add", rows, graph.op("Unsqueeze", key, graph.constant([1], "axis")))
    scale = graph.constant(np.asarray(layer.scale), "scale") if layer.use_scale else None
    inside = type(layer).__name__ == "Attention"
    if scale is not None and inside:
        total = graph.op("Mul", total, scale)
    total = graph.op("Tanh", total)
    if scale is not None and not inside:
        total = graph.op("Mul", total, scale)
    scores = graph.op("ReduceSum", total, graph.constant([-1], "axis"), keepdims=0)
    return graph.op("Mul", scores, graph.constant(np.asarray(layer.concat_score_weight))) if inside else scores


def _sequences(layer: Any, call: Call, graph: Emitter, names: Sequence[str]) -> list[ir.Value]:
    """Return query, value and key, each `(batch, time, features)`."""
    for name in UNSTREAMED:
        if call.kwargs.get(name) is not None and call.kwargs[name] is not False:
            raise refuse(layer, f"it is called with {name}", "call it without")
    given = [*call.args, *(call.kwargs[name] for name in names if call.kwargs.get(name) is not None)]
    listed = [item for part in given for item in (part if isinstance(part, list | tuple) else [part])]
    query, value, *rest = [item for item in listed if item is not None][:3]
    key = rest[0] if rest else value
    for item in (query, value, key):
        if len(item.shape) != 3 or call.outer:
            raise refuse(
                layer, f"it attends over a tensor of shape {tuple(item.shape)}", "give it (batch, time, features)"
            )
    return [
        item.value if isinstance(item, Tensor) else graph.constant(np.asarray(item, np.float32), "memory")
        for item in (query, value, key)
    ]


def _masked(layer: Any, scores: ir.Value, call: Call, graph: Emitter, heads: int, window: int | None) -> ir.Value:
    """Add minus infinity to the score of each pair of frames that do not see one another."""
    given = call.kwargs.get("attention_mask")
    for hidden in _hidden(layer, call, heads, graph):
        scores = graph.op("Add", scores, hidden)
    if given is not None and not isinstance(given, Tensor):
        mask = np.where(np.asarray(given, bool), 0.0, -np.inf)
        scores = graph.op("Add", scores, graph.constant(mask if mask.ndim < 3 else mask[:, None], "mask"))
    causal = bool(call.kwargs.get("use_causal_mask"))
    sides = [] if window is None else [(0, -window)] if causal else [(0, -window), (1, window)]
    for upper, diagonal in [*sides, *([(1, 1)] if causal else [])]:
        sizes = graph.op(
            "Slice", graph.op("Shape", scores), graph.constant([-2]), graph.constant([np.iinfo(np.int64).max])
        )
        never = graph.op("ConstantOfShape", sizes, value=ir.Tensor(np.array([-np.inf], np.float32)))
        side = graph.op("Trilu", never, graph.constant(np.array(diagonal), "diagonal"), upper=upper)
        scores = graph.op("Add", scores, side)
    return scores


def _hidden(layer: Any, call: Call, heads: int, graph: Emitter) -> list[ir.Value]:
    """Return what hides what computed masks leave out, to add to scores `(batch, heads..., frames, places)`."""
    asking, places = call.kwargs.get("mask") or (None, call.kwargs.get("value_mask"))
    if asking is not None:
        raise refuse(layer, "it is called with a mask of its queries", "mask its value alone, with mask=[None, mask]")
    found = []
    for given, missing in ((places, heads + 1), (call.kwargs.get("attention_mask"), heads)):
        if isinstance(given, Tensor):
            seen = given.value if given.dtype == "bool" else graph.op("Cast", given.value, to=int(ir.DataType.BOOL))
            axes = graph.constant(list(range(1, 1 + missing)), "axes")
            spread = graph.op("Unsqueeze", seen, axes) if len(given.shape) + missing == heads + 3 and missing else seen
            found.append(graph.op("Where", spread, graph.constant(0.0, "seen"), graph.constant(HIDDEN, "hidden")))
    return found


def _project(dense: Any, x: ir.Value, graph: Emitter, inner: int = 1) -> ir.Value:
    """Apply an EinsumDense over the features; its `inner` input axes and its output axes are flat here."""
    kernel, *bias = dense.get_weights()
    rows = int(np.prod(kernel.shape[:inner]))
    value = graph.op("MatMul", x, graph.constant(kernel.reshape(rows, -1), "kernel"))
    return graph.op("Add", value, graph.constant(bias[0].ravel(), "bias")) if bias else value


def _reshape(x: ir.Value, shape: Sequence[int], graph: Emitter) -> ir.Value:
    return graph.op("Reshape", x, graph.constant([0, 0, *shape], "shape"))

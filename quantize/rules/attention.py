"""Attention over time: the keys and values of past frames become states.

The pattern is what every exporter makes of it: every frame is compared with every other one (a product, or a sum of
queries and keys), something is done to the scores (scales, masks), a Softmax over the keys, and a product with the
values. Until that product is reached the scores stay pending; then the mask tells how far back and ahead a frame sees.
A model that bounds this itself is streamed exactly; any other one needs `Bounds.attention`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.graph import array_of, attribute, plain_attributes
from edgernn.quantize.masks import by_distance, evaluate, sizes_for
from edgernn.quantize.rules.lengths import Lengths
from edgernn.quantize.step_builder import NEVER
from edgernn.quantize.streaming import Pending, StepBuilder, Stepped, refusal, together
from edgernn.quantize.timing import Timing

__all__ = ["ATTENTION", "Done", "Scores", "compares_frames"]

ATTENTION = "attention"  # nodes whose scope ends in this stay in float when the rest is quantized
LENGTHS = (32, 256, 1024)  # of the sequences that masks are tried on, until one is longer than what is seen
ELEMENTWISE = (
    *("Abs", "Add", "Cast", "Clip", "Div", "Exp", "Identity", "IsNaN", "LeakyRelu", "Max", "Min", "Mul", "Neg", "Relu"),
    *("Sigmoid", "Sub", "Tanh", "Where"),
)
WAY_OUT = "bound it with --attention-window N, or N,lookahead=L, or train it with a sliding window"


@dataclass(frozen=True)
class Done:
    """A node that works on scores, and its other inputs."""

    node: ir.Node
    inputs: tuple[Stepped | None, ...]


@dataclass(frozen=True, kw_only=True)
class Scores(Pending):
    """A value with an axis of frames that ask (rows) and one of frames that are asked (columns)."""

    rows: int
    columns: int
    asking: int
    """Which input of the first node has the rows."""
    done: tuple[Done, ...]
    """From the comparison to what gives this value, in the order of the graph."""

    def follow(self, node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
        """Go on to the product with the values, and give its form in the stream there."""
        if node.op_type == "Shape":
            return [Lengths(node.outputs[0])]
        scores = [item for item in inputs if isinstance(item, Scores)]
        if node.op_type == "MatMul" and inputs[0] is self and len(scores) == 1 and _is_timed(inputs[1]):
            return [_attend(node, self, inputs, step)]
        self._check(node, inputs, scores)
        done = tuple(dict.fromkeys(item for score in scores for item in score.done))
        return [replace(self, value=value, done=(*done, Done(node, tuple(inputs)))) for value in node.outputs]

    def _check(self, node: ir.Node, inputs: Sequence[Stepped | None], scores: Sequence[Scores]) -> None:
        rank = len(self.value.shape or ())
        others = [v for v, i in zip(node.inputs, inputs, strict=True) if v is not None and not isinstance(i, Scores)]
        if any(map(_is_timed, inputs)) or len({score.done[0].node for score in scores}) > 1:
            raise refusal(node, "it joins attention scores with other frames", WAY_OUT)
        if node.op_type == "Softmax" and self.columns == int(attribute(node, "axis", -1)) % rank == rank - 1:
            return
        if node.op_type == "ReduceSum" and all(int(a) % rank > self.columns for a in array_of(node.inputs[1]).ravel()):
            return
        if node.op_type not in ELEMENTWISE or any(len(value.shape or ()) > rank for value in others):
            raise refusal(
                node,
                "it works on scores of every frame with every other one, and does not look like attention",
                "write attention as softmax(scores) times values, or use a recurrent layer",
            )

    def refused(self, name: str) -> str:
        """Say why it can be no output."""
        return f"the output {name} has scores of every frame with every other one, of which a stream has no end"


def compares_frames(node: ir.Node, inputs: Sequence[Stepped | None]) -> Scores | None:
    """Return the scores that a node begins with: where it joins two sequences along two different axes."""
    rank = max(len(value.shape or ()) for value in node.inputs if value is not None)
    axes = [_axis(value, item, rank) for value, item in zip(node.inputs, inputs, strict=True)]
    found = [axis for axis in axes if axis is not None]
    if len(axes) != 2 or len(found) != 2:
        return None
    product = node.op_type == "MatMul" and found == [rank - 2, rank - 1]
    if not product and (found[0] == found[1] or node.op_type not in ("Add", "Sub", "Mul")):
        return None
    return Scores(
        value=node.outputs[0],
        rows=min(found),
        columns=max(found),
        asking=found.index(min(found)),
        done=(Done(node, tuple(inputs)),),
    )


def _axis(value: ir.Value | None, item: Stepped | None, rank: int) -> int | None:
    if value is None or item is None or item.timing is None or item.timing.axis is None:
        return None
    return item.timing.axis + rank - len(value.shape or ())


def _is_timed(item: Stepped | None) -> bool:
    return item is not None and item.timing is not None


@dataclass(frozen=True)
class _Band:
    """How far a frame sees back and ahead, and how many frames ask at once."""

    past: int
    ahead: int
    frames: int = 1

    @property
    def held(self) -> int:
        """Frames that are kept of keys and values."""
        return self.past + self.ahead

    @property
    def distances(self) -> NDArray[np.int64]:
        """For each frame that asks (row) how far behind it each one is that is there (column)."""
        columns, rows = np.arange(self.held + self.frames), np.arange(self.frames)
        return columns[None] - self.past - rows[:, None]

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Which of these it sees."""
        return (self.distances >= -self.past) & (self.distances <= self.ahead)


Pair = tuple[ir.Value, Stepped]
"""A value of the sequence graph and what it became."""
Known = ir.Value | NDArray[Any]
"""What a value of the sequence graph is for the frames that are there: a value of the step graph, or a constant."""


def _attend(node: ir.Node, scores: Scores, inputs: Sequence[Stepped | None], step: StepBuilder) -> Stepped:
    """Give a product of shares and values its form in the stream."""
    softmax = next((item.node for item in scores.done if item.node.op_type == "Softmax"), None)
    rank, root = len(scores.value.shape or ()), scores.done[0]
    compared = _pairs(root.node, root.inputs)
    asking, asked, given = compared[scores.asking], compared[1 - scores.asking], _pairs(node, inputs)[-1]
    if softmax is None or scores.rows != rank - 2 or _axis(*given, rank) != rank - 2:
        raise refusal(node, "it sums over all frames, and not with the shares of a Softmax", WAY_OUT)
    band, masks = _read_masks(node, scores, softmax, step)
    (query, late), keys, values = together(node, (asking, asked, given), step)
    assert late.timing is not None
    band = replace(band, frames=late.timing.frames)
    step.scope = f"{step.scope}/{ATTENTION}" if step.scope else ATTENTION
    delayed = step.delay(late, band.ahead, query)
    known: dict[ir.Value, Known] = {query: delayed.value, keys[0]: _with_past(keys, "keys", band, step)}
    places = _places(late.timing, rank, band, step)
    for item in scores.done:
        known.update((v, _banded(item, masks[v], scores, band)) for v in item.node.inputs if v in masks)
        scored = item.node.inputs[0]
        if item.node is softmax and places is not None and scored is not None:
            known[scored] = step.op("Add", _value(known[scored]), places)
        known[item.node.outputs[0]] = _again(item, known, step)
    product = step.op("MatMul", _value(known[scores.value]), _with_past(values, "values", band, step))
    assert delayed.timing is not None
    timings = [item.timing for _, item in (asking, asked, given) if item.timing is not None]
    lag, settled = (max(times) for times in zip(*((timing.lag, timing.settled) for timing in timings), strict=True))
    axis = len(node.outputs[0].shape or ()) - 2
    return Stepped(product, replace(delayed.timing, axis=axis, lag=lag, settled=settled + band.ahead))


def _value(known: Known) -> ir.Value:
    assert isinstance(known, ir.Value)
    return known


def _pairs(node: ir.Node, inputs: Sequence[Stepped | None]) -> list[Pair]:
    return [(v, item) for v, item in zip(node.inputs, inputs, strict=True) if v is not None and item is not None]


def _read_masks(
    node: ir.Node, scores: Scores, softmax: ir.Node, step: StepBuilder
) -> tuple[_Band, dict[ir.Value, NDArray[Any]]]:
    """Return how far a frame sees, and what else than scores was joined to them, for some length of sequence."""
    first = scores.done[0].node.outputs[0]
    others = [v for item in scores.done[1:] for v, i in _pairs(item.node, item.inputs) if not isinstance(i, Scores)]
    for frames in _fixed_length(others) or LENGTHS:
        given = {first: np.zeros(sizes_for(first, frames), np.float32)}
        shares, *arrays = evaluate([softmax.outputs[0], *others], given, frames)
        rows, columns = np.nonzero((shares > 0).reshape(-1, frames, frames).any(axis=0))
        past, ahead = max(0, int((rows - columns).max())), max(0, int((columns - rows).max()))
        if max(past, ahead) < frames - 1:
            break
    return _bounded(node, past, ahead, frames, step), dict(zip(others, arrays, strict=True))


def _fixed_length(others: Sequence[ir.Value]) -> tuple[int, ...]:
    """Return the length that a stored mask is made for, if there is one."""
    sizes = {array_of(v).shape[-1] for v in others if v.is_initializer() and len(v.shape or ()) >= 2}
    return tuple(sorted(size for size in sizes if size > 1))[:1]


def _bounded(node: ir.Node, past: int, ahead: int, frames: int, step: StepBuilder) -> _Band:
    """Return how far a frame sees in the stream: as far as in the model or, where that was asked for, less far."""
    bound, endless = step.bounds.attention, max(past, ahead) == frames - 1
    if bound is None and endless:
        every = "before it and after it" if ahead == frames - 1 else "before it"
        raise refusal(node, f"each frame attends to all frames {every}", WAY_OUT)
    if bound is None or (past < bound.frames and ahead <= bound.lookahead):
        return _Band(past, ahead)
    seen = _Band(min(past, bound.frames - 1), min(ahead, bound.lookahead))
    after = f" and {seen.ahead} after it" if ahead else ""
    step.approximate("attention", f"each frame attends to the newest {seen.past + 1} frames{after}")
    return seen


def _with_past(pair: Pair, name: str, band: _Band, step: StepBuilder) -> ir.Value:
    original, item = pair
    assert item.timing is not None
    return step.remember(item, band.held, original, name, item.timing.hold_steps)


def _places(timing: Timing, rank: int, band: _Band, step: StepBuilder) -> ir.Value | None:
    """Return what is added to scores: a place that is out of reach, or holds no frame yet, must have no share."""
    outside = np.where(band.inside, 0.0, -NEVER).astype(np.float32) if band.frames > 1 else None
    if band.held == 0:
        return None if outside is None else step.constant(outside, "outside")
    shape = [step.batch, *[1] * (rank - 2), band.held]
    empty = step.empty_places(shape, rank - 1, band.frames, timing.hold_steps)
    return empty if outside is None else step.op("Add", empty, step.constant(outside, "outside"))


def _again(item: Done, known: Mapping[ir.Value, Known], step: StepBuilder) -> Known:
    """Repeat a node on the frames that are there; what its masks do not change is left out."""
    node = item.node
    entered = [None if value is None else known[value] for value in node.inputs]
    if node.op_type == "IsNaN":  # it asks for rows that are masked everywhere; every frame sees itself
        return np.array(False)
    if node.op_type == "Where" and isinstance(entered[0], np.ndarray) and len(set(entered[0].ravel().tolist())) == 1:
        kept = entered[1] if entered[0].all() else entered[2]
    elif node.op_type in ("Add", "Sub") and isinstance(entered[1], np.ndarray) and not entered[1].any():
        kept = entered[0]
    else:
        values = [step.constant(e, "mask") if isinstance(e, np.ndarray) else e for e in entered]
        return step.ops(node.op_type, values, 1, plain_attributes(node))[0]
    assert kept is not None
    return kept


def _banded(item: Done, array: NDArray[Any], scores: Scores, band: _Band) -> NDArray[Any]:
    """Return for the frames that are there what a mask says of all pairs of frames."""
    rank = max(len(value.shape or ()) for value, i in _pairs(item.node, item.inputs) if isinstance(i, Scores))
    if item.node.op_type not in ELEMENTWISE or not any(
        0 <= axis < array.ndim and array.shape[axis] > 1
        for axis in (array.ndim - rank + scores.rows, array.ndim - rank + scores.columns)
    ):
        return array
    if scores.columns != rank - 1:
        raise refusal(item.node, "it masks scores before they are summed over the features", WAY_OUT)
    frames = max(array.shape[-2:])
    square = np.broadcast_to(array, (*array.shape[:-2], frames, frames))
    seen = by_distance(square, range(-band.past, band.ahead + 1))
    if seen is None:
        raise refusal(
            item.node,
            "its mask depends on where in the sequence a frame is, not on the distance of two frames alone",
            "mask by distance: causal, a sliding window, or a bias by distance",
        )
    spread: NDArray[Any] = seen[..., np.clip(band.distances + band.past, 0, band.held)]
    return spread if (spread != spread.flat[0]).any() else np.asarray(spread.flat[0])

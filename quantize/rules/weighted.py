"""Pooling with shares that a Softmax over all frames gives: attention pooling.

Over all frames so far it is exact, and nothing of the past is kept but a maximum, a sum and a mean: Milakov and
Gimelshein 2018 (arXiv:1805.02867) compute a Softmax in one pass in this way. `Bounds.pooling_window` has it look at the
last frames alone. Until the shares have met the frames that they are shares of, and these are summed, all is pending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgernn.quantize.graph import array_of, attribute, plain_attributes
from edgernn.quantize.rules.pooling import COUNT_LIMIT, LEAST, STATISTICS, recent
from edgernn.quantize.streaming import (
    Pending,
    State,
    StepBuilder,
    Stepped,
    batch_axis,
    refusal,
    step_shape,
    summed_up,
    together,
)
from edgernn.quantize.timing import Timing

__all__ = ["Shares"]

MOVES = ("Identity", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True, kw_only=True)
class Shares(Pending):
    """A Softmax over time, perhaps times a sequence."""

    axis: int
    """Which axis is time."""
    softmax: ir.Node
    score: Stepped
    done: tuple[ir.Node, ...] = ()
    """What was done to the shares since."""
    weighted: tuple[ir.Value, Stepped] | None = None
    """The sequence of which they are shares, once they have met it."""

    def follow(self, node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
        """Go on to the sum over time, and give its form in the stream there."""
        done = (*self.done, node)
        if node.op_type in MOVES:
            return [replace(self, value=node.outputs[0], axis=self._moved(node), done=done)]
        others = [(v, i) for v, i in zip(node.inputs, inputs, strict=True) if v and i and i.timing]
        rank = max(len(value.shape or ()) for value in node.inputs if value is not None)
        axes = [_time(value, item, rank) for value, item in zip(node.inputs, inputs, strict=True)]
        if self.weighted is None and len(others) == 1 and len(axes) == 2:
            weighted = replace(self, value=node.outputs[0], done=done, weighted=others[0], axis=axes[0] or 0)
            if node.op_type == "Mul" and axes[0] == axes[1]:
                return [weighted]
            if node.op_type == "MatMul" and axes == [rank - 1, rank - 2]:
                return [_pooled(node, weighted, step)]
        if node.op_type == "ReduceSum" and self.weighted and _axes(node, rank) == [self.axis]:
            return [_pooled(node, replace(self, done=done), step)]
        raise refusal(
            node,
            "it uses a Softmax over all frames, and does not look like a pooling with its shares",
            "sum up over time the product of frames and their shares, or let the Softmax work along the features",
        )

    def _moved(self, node: ir.Node) -> int:
        rank = len(self.value.shape or ())
        if node.op_type == "Transpose":
            return list(attribute(node, "perm", range(rank)[::-1])).index(self.axis)
        if node.op_type == "Squeeze":
            return self.axis - sum(axis < self.axis for axis in _axes(node, rank))
        if node.op_type == "Unsqueeze":
            new = _axes(node, rank + array_of(node.inputs[1]).size)
            return [axis for axis in range(rank + len(new)) if axis not in new][self.axis]
        return self.axis

    def refused(self, name: str) -> str:
        """Say why it can be no output."""
        return (
            f"the output {name} has a share for each frame of the sequence, which every later frame changes; give the "
            "sum of the frames by these shares instead"
        )


def _axes(node: ir.Node, rank: int) -> list[int]:
    return sorted(int(axis) % rank for axis in array_of(node.inputs[1]).ravel())


def _time(value: ir.Value | None, item: Stepped | None, rank: int) -> int | None:
    axis = item.axis if isinstance(item, Shares) else item.timing.axis if item is not None and item.timing else None
    return None if value is None or axis is None else axis + rank - len(value.shape or ())


def _pooled(node: ir.Node, shares: Shares, step: StepBuilder) -> Stepped:
    """Give the sum over time of a sequence times its shares."""
    assert shares.weighted is not None
    assert shares.softmax.inputs[0] is not None
    met = ((shares.softmax, shares.softmax.inputs[0], shares.score), (node, *shares.weighted))
    whole = [(original, summed_up(at, original, item, step)) for at, original, item in met]
    pairs = together(node, whole, step)
    timing = pairs[0][1].timing
    assert timing is not None
    pool = _over_window if step.bounds.pooling_window else _over_all
    return Stepped(pool(node, shares, pairs, step), timing.on_axis(None))


def _over_window(
    node: ir.Node, shares: Shares, pairs: Sequence[tuple[ir.Value, Stepped]], step: StepBuilder
) -> ir.Value:
    (first, score), (second, values) = pairs
    step.approximate("pooling_window", f"over the last {step.bounds.pooling_window} frames")
    step.scope = f"{step.scope}/{STATISTICS}"
    scores, timing, window = recent(score, first, step), score.timing, step.bounds.pooling_window
    assert timing is not None
    assert timing.axis is not None
    assert window is not None
    if window > timing.frames:
        shape = [1] * len(first.shape or ())
        shape[batch_axis(first, timing)], shape[timing.axis] = step.batch, window - timing.frames
        scores = step.op("Add", scores, step.empty_places(shape, timing.axis, timing.frames, timing.hold_steps))
    softmax = step.op("Softmax", scores, **plain_attributes(shares.softmax))
    return _contracted(shares, softmax, recent(values, second, step), step)


def _over_all(node: ir.Node, shares: Shares, pairs: Sequence[tuple[ir.Value, Stepped]], step: StepBuilder) -> ir.Value:
    """mean += (sum of e * frame - mean * sum of e) / total, with e and total counted from the largest score so far."""
    (first, score), (second, values) = pairs
    assert score.timing is not None
    assert values.timing is not None
    step.scope = f"{step.scope}/{STATISTICS}"
    axis = score.timing.axis
    largest = _state("largest", first, replace(score.timing, frames=1), score.timing, LEAST, step)
    newest = step.op("ReduceMax", score.value, axes=[axis], keepdims=1)
    largest.output = step.op("Max", largest.input, newest)
    fresh = step.op("Exp", step.op("Sub", score.value, largest.output))
    faded = step.op("Exp", step.op("Sub", largest.input, largest.output))

    def ones(frames: int) -> ir.Value:
        assert values.timing is not None
        shape = step_shape(second, replace(values.timing, frames=frames), step.batch)
        return step.constant(np.ones(shape, np.float32), "ones")

    weight = _contracted(shares, fresh, ones(score.timing.frames), step)
    result = node.outputs[0]
    without = score.timing.on_axis(None)
    total, mean = (_state(name, result, without, score.timing, 0.0, step) for name in ("total", "mean"))
    raised = step.op("Add", step.op("Mul", total.input, _contracted(shares, faded, ones(1), step)), weight)
    total.output = step.op("Min", raised, step.constant(COUNT_LIMIT, "limit"))
    change = step.op("Sub", _contracted(shares, fresh, values.value, step), step.op("Mul", mean.input, weight))
    mean.output = step.op("Add", mean.input, step.op("Div", change, raised))
    return mean.output


def _state(name: str, original: ir.Value, timing: Timing, source: Timing, initial: float, step: StepBuilder) -> State:
    shape = step_shape(original, timing, step.batch)
    return step.state(name, shape, source.hold_steps, initial, batch_axis(original, timing))


def _contracted(shares: Shares, softmax: ir.Value, frames: ir.Value, step: StepBuilder) -> ir.Value:
    """Repeat what the model does from the Softmax to the sum, on other shares and frames."""
    assert shares.weighted is not None
    known = {shares.softmax.outputs[0]: softmax, shares.weighted[0]: frames}
    for node in shares.done:
        entered = [
            None if value is None else known[value] if value in known else step.constant(array_of(value))
            for value in node.inputs
        ]
        known[node.outputs[0]] = step.ops(node.op_type, entered, 1, plain_attributes(node))[0]
    return known[shares.done[-1].outputs[0]]

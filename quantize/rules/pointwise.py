"""Operators that treat every frame alike: they pass into the step graph unchanged."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgernn.quantize.graph import attribute
from edgernn.quantize.rules.attention import compares_frames
from edgernn.quantize.rules.weighted import Shares
from edgernn.quantize.streaming import Kind, StepBuilder, Stepped, merge, refusal, rule

__all__: list[str] = []

UNARY = (
    *("Abs", "Cast", "Ceil", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity"),
    *("LeakyRelu", "Log", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus"),
    *("Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
)
BINARY = ("Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub")
LOGICAL = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Where", "Xor")


@rule(*UNARY, *BINARY, *LOGICAL, kind=Kind.POINTWISE)
def elementwise(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Bring branches to the same frame, then compute as before."""
    scores = compares_frames(node, inputs)
    if scores is not None:
        return [scores]
    values, timing = merge(node, inputs, step)
    rank = max(len(value.shape or ()) for value in node.inputs if value is not None)
    for original, item in zip(node.inputs, inputs, strict=True):
        if original is None or item is None or timing is None or timing.axis is None:
            continue
        if item.timing is not None:
            if item.timing.axis is None or item.timing.axis + rank - len(original.shape or ()) != timing.axis:
                raise refusal(node, "it joins the time of one branch with the features of another", MATCH_AXES)
            continue
        sizes = (1,) * (rank - len(original.shape or ())) + tuple(original.shape or ())
        if sizes[timing.axis] != 1:
            raise refusal(
                node,
                f"the constant {original.name} differs from frame to frame (shape {original.shape})",
                "share it along time (PReLU: shared_axes=[1])",
            )
    return [Stepped(value, timing) for value in step.copy(node, values)]


MATCH_AXES = "give both the same axes, with keras.ops.expand_dims"


@rule("MatMul", kind=Kind.POINTWISE)
def matmul(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """A product of matrices in each frame, one of which may be constant."""
    scores = compares_frames(node, inputs)
    if scores is not None:
        return [scores]
    values, timing = merge(node, inputs, step)
    ranks = [len(value.shape or ()) for value in node.inputs if value is not None]
    for item, rank, summed in zip(inputs, ranks, (-1, -2), strict=True):
        if item is None or item.timing is None or item.timing.axis is None or timing is None:
            continue
        place = item.timing.axis - rank
        if place == summed:
            raise refusal(node, "it sums over time", "let it work along the features, or pool over time")
        if all(other is not None and other.timing is not None for other in inputs) and place >= -2:
            raise refusal(node, "it takes every frame together with every other one", "use an attention layer")
        timing = timing.on_axis(place + max(ranks))
    return [Stepped(value, timing) for value in step.copy(node, values)]


@rule("Softmax", "LogSoftmax", "LayerNormalization", "Concat", kind=Kind.POINTWISE)
def along_features(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Operators along an axis, which must not be time; but what a Softmax over time gives may be summed up."""
    values, timing = merge(node, inputs, step)
    rank = len(node.inputs[0].shape or ()) if node.inputs[0] is not None else 0
    axis = int(attribute(node, "axis", -1)) % max(rank, 1)
    if node.op_type == "Softmax" and inputs[0] is not None and timing is not None and axis == timing.axis:
        return [Shares(value=node.outputs[0], axis=axis, softmax=node, score=inputs[0])]
    norm = node.op_type == "LayerNormalization"
    if timing is not None and timing.axis is not None and (axis <= timing.axis if norm else axis == timing.axis):
        raise refusal(node, "it works along the time axis", "let it work along the features (axis=-1)")
    return [Stepped(value, timing) for value in step.copy(node, values)]

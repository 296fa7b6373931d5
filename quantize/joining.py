"""Branches that meet, and sequences that are summed up: brought to the same frame, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from edgernn.quantize.refusal import refusal
from edgernn.quantize.step_builder import StepBuilder, Stepped
from edgernn.quantize.timing import Timing

__all__ = ["merge", "summed_up", "together"]


def merge(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> tuple[list[ir.Value], Timing | None]:
    """Bring the inputs of a node that joins branches to the same frame; return their values and common timing."""
    timed = [item.timing for item in inputs if item is not None and item.timing is not None]
    if not timed:
        return [item.value for item in inputs if item is not None], None
    if len({(timing.axis is None, timing.stride) for timing in timed}) > 1:
        raise refusal(
            node,
            "it joins branches that run at different rates, or a sequence with a summary of it",
            "give both the same strides, and both or neither a last frame or a global pooling",
        )
    if timed[0].axis is None and len({timing.extra_input_frames for timing in timed}) > 1:
        raise refusal(
            node,
            "it joins summaries of which one is some frames older, because of how the strides fall",
            "give both branches the same strides and windows",
        )
    latest = max(timing.delay for timing in timed)
    values = []
    for original, item in zip(node.inputs, inputs, strict=True):
        if item is None or original is None:
            continue
        if item.timing is not None and item.timing.axis is not None:
            item = step.delay(item, latest - item.timing.delay, original)
        values.append(item.value)
    lag, settled = (max(times) for times in zip(*((timing.lag, timing.settled) for timing in timed), strict=True))
    rank = max(len(value.shape or ()) for value in node.inputs if value is not None)
    axis = next((t.axis + rank - len(v.shape or ()) for v, t in _timed(node, inputs) if t.axis is not None), None)
    return values, replace(timed[0], axis=axis, delay=latest, lag=lag, settled=settled)


def together(
    node: ir.Node, pairs: Sequence[tuple[ir.Value, Stepped]], step: StepBuilder
) -> list[tuple[ir.Value, Stepped]]:
    """Bring sequences, each behind its original, to whole steps and to the same frame."""
    aligned = [(original, step.align(item, original)) for original, item in pairs]
    timings = [item.timing for _, item in aligned if item.timing is not None]
    if len({(timing.stride, timing.axis is None) for timing in timings}) > 1:
        raise refusal(node, "it joins sequences that run at different rates", "give all of them the same strides")
    latest = max(timing.delay for timing in timings)
    return [
        (original, step.delay(item, latest - item.timing.delay, original))
        for original, item in aligned
        if item.timing is not None
    ]


def summed_up(
    node: ir.Node, original: ir.Value | None, source: Stepped, step: StepBuilder, whole_steps: bool = True
) -> Stepped:
    """Return a sequence of which a summary (its last frame, its mean) is what the source says for all frames so far.

    `node` sums it up; `whole_steps` asks for its first frame to be the first of a step. Raises `UnsupportedLayerError`
    where the source knows something of its last frames that no stream can: that zeros stand behind them.
    """
    assert original is not None
    source = step.settle(source, original)
    source = step.align(source, original) if whole_steps else source
    timing = source.timing
    assert timing is not None
    blurred = timing.settled - timing.lag
    if blurred and step.bounds.edges:
        step.approximate("edges", f"without the last {blurred} frames, which look ahead")
    elif blurred:
        raise refusal(
            node,
            f"it sums up a sequence whose last {blurred} frames were made from zeros behind the end, and a stream has "
            "no end",
            "leave these frames out with --approximate edges, crop them, or train with padding='causal'",
        )
    if (timing.delay - timing.lag) * timing.stride % 1:
        raise refusal(
            node,
            "it would sum up a sequence that ends between two input frames, because of how UpSampling falls",
            "crop a multiple of the upsampling factor",
        )
    return source


def _timed(node: ir.Node, inputs: Sequence[Stepped | None]) -> list[tuple[ir.Value, Timing]]:
    pairs = zip(node.inputs, inputs, strict=True)
    return [(v, item.timing) for v, item in pairs if v is not None and item is not None and item.timing is not None]

"""The step graph: what one step takes and gives, and which states it carries."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgernn.quantize.graph import attribute, shape_of
from edgernn.quantize.timing import Timing
from edgernn.spec import StateSpec, StreamSpec, TensorSpec

__all__ = ["State", "StepGraph"]


@dataclass
class State:
    """A state of the step graph."""

    name: str
    input: ir.Value
    initial: float
    hold_steps: int
    batch_axis: int = 0
    output: ir.Value | None = None


@dataclass(frozen=True)
class StepGraph:
    """The step graph and what a runner has to know about it.

    Graph inputs are the model's inputs, then its contexts, then the states; outputs likewise, without contexts. State
    `n` of the inputs is state `n` of the outputs.
    """

    model: ir.Model
    states: tuple[State, ...]
    timings: tuple[Timing, ...]
    """Of each output."""
    frames_per_step: int
    inputs: int
    """How many of the graph's inputs bring frames (the others bring states)."""
    batch: int = 1
    """Streams that one step serves."""
    contexts: int = 0
    """How many inputs behind those are given once, when a stream begins."""
    approximations: tuple[str, ...] = ()
    """What is not what the source would say, node by node: all of it was asked for."""

    def spec(self) -> StreamSpec:
        """Describe the step, all in float32, to a runner."""
        graph, outputs, given = self.model.graph, len(self.timings), self.inputs + self.contexts
        return StreamSpec(
            inputs=tuple(_tensor(value) for value in graph.inputs[: self.inputs]),
            outputs=tuple(_tensor(value) for value in graph.outputs[:outputs]),
            states=tuple(
                StateSpec(
                    state.name,
                    entering.name or "",
                    leaving.name or "",
                    shape_of(entering),
                    str((entering.dtype or ir.DataType.FLOAT).numpy()),
                    initial=state.initial,
                    hold_steps=state.hold_steps,
                    batch_axis=state.batch_axis,
                )
                for state, entering, leaving in zip(
                    self.states, graph.inputs[given:], graph.outputs[outputs:], strict=True
                )
            ),
            frames_per_step=self.frames_per_step,
            batch=self.batch,
            output_delays=tuple(t.warmup_steps if t.axis is None else t.delay for t in self.timings),
            output_kinds=tuple("prefix" if t.axis is None else "frames" for t in self.timings),
            latency_frames=max(t.latency_frames for t in self.timings),
            contexts=tuple(_tensor(value) for value in graph.inputs[self.inputs : given]),
        )


def _tensor(value: ir.Value) -> TensorSpec:
    dtype = str((value.dtype or ir.DataType.FLOAT).numpy())
    return TensorSpec(value.name or "", shape_of(value), dtype, below=_entries(value))


def _entries(value: ir.Value) -> int | None:
    """Return in how many entries of a table these numbers are looked up, the least of all tables."""
    found: list[int | None] = []
    for node, place in value.uses():
        if node.op_type == "Gather" and place == 1 and node.inputs[0] is not None and node.inputs[0].is_initializer():
            found.append(shape_of(node.inputs[0])[int(attribute(node, "axis", 0))])
        elif node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze") and place == 0:
            found.append(_entries(node.outputs[0]))
    return min((entries for entries in found if entries is not None), default=None)

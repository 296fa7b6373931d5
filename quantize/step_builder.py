"""Building the step graph: its values know where they stand in time, and rules ask for states and for delay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgernn.errors import ConversionError, UnsupportedLayerError
from edgernn.quantize.bounds import EXACT, Bounds
from edgernn.quantize.graph import Builder, identifier
from edgernn.quantize.step_graph import State
from edgernn.quantize.timing import Timing

__all__ = ["NEVER", "Pending", "StepBuilder", "Stepped", "batch_axis", "step_shape", "values_of"]

NEVER = 1e9  # below any other score: Exp of it is zero


@dataclass(frozen=True)
class Stepped:
    """A value of the step graph; `timing` is None for a constant, and for what comes of contexts alone."""

    value: ir.Value
    timing: Timing | None = None

    @property
    def held(self) -> bool:
        """Whether it comes of contexts: the same in every step of a stream, and not known before."""
        return self.timing is None and self.value.const_value is None


@dataclass(frozen=True)
class Pending(Stepped, ABC):
    """What has a form in the step graph only together with what follows; its `value` is that of the sequence graph."""

    @abstractmethod
    def follow(self, node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
        """Return what `node` becomes, which has this among its inputs; or refuse it."""

    @abstractmethod
    def refused(self, name: str) -> str:
        """Say why the output `name` cannot be this."""


class StepBuilder(Builder):
    """Builds the step graph for `batch` streams; rules ask it for states and for alignment.

    Where a method takes a value's `original`, that is the value in the sequence graph: it tells shape and batch axis.
    """

    def __init__(self, name: str, batch: int = 1, bounds: Bounds = EXACT) -> None:
        super().__init__(name)
        self.batch = batch
        self.bounds = bounds
        self.states: list[State] = []
        self.approximations: dict[str, list[str]] = {}

    def state(
        self, name: str, shape: Sequence[int], hold_steps: int, initial: float = 0.0, batch_axis: int = 0
    ) -> State:
        """Add a state of this shape, with the streams along `batch_axis`; the rule must set its `output`."""
        assert shape[batch_axis] == self.batch, f"{name}: {shape} has not {self.batch} streams along {batch_axis}"
        full = self.unique(f"{self.scope}.{name}" if self.scope else name)
        entering = self.unique(identifier(f"{full}_in"))
        value = ir.Value(name=entering, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        self.states.append(State(full, value, initial, hold_steps, batch_axis))
        return self.states[-1]

    def delay(self, stepped: Stepped, frames: int, original: ir.Value) -> Stepped:
        """Put a delay line of `frames` frames behind a value."""
        timing = stepped.timing
        if frames == 0 or timing is None:
            return stepped
        if timing.axis is None:
            raise UnsupportedLayerError(f"{self.scope}: a value without a time axis cannot be delayed")
        return Stepped(self._line(stepped, frames, original, 0), replace(timing, delay=timing.delay + frames))

    def insert_zeros(self, stepped: Stepped, frames: int, original: ir.Value) -> Stepped:
        """Put zeros before the first valid frame, by a delay line that takes nothing in until then."""
        stepped = self.align(stepped, original)
        timing = stepped.timing
        assert timing is not None
        value = self._line(stepped, frames, original, timing.hold_steps)
        return Stepped(value, replace(timing.without_first(-frames), delay=timing.delay))

    def _line(self, stepped: Stepped, frames: int, original: ir.Value, hold_steps: int) -> ir.Value:
        timing = stepped.timing
        assert timing is not None
        assert timing.axis is not None
        joined = self.remember(stepped, frames, original, "delay", hold_steps)
        return self.cut(joined, timing.axis, 0, timing.frames)

    def remember(
        self, stepped: Stepped, frames: int, original: ir.Value, name: str, hold_steps: int = 0, initial: float = 0.0
    ) -> ir.Value:
        """Return the last `frames` frames and behind them the step's own; before the beginning, all are `initial`."""
        timing = stepped.timing
        assert timing is not None
        assert timing.axis is not None
        if frames == 0:
            return stepped.value
        held = step_shape(original, replace(timing, frames=frames), self.batch)
        past = self.state(name, held, hold_steps, initial, batch_axis(original, timing))
        real = original.dtype in (None, ir.DataType.FLOAT)  # states are: what is true or false is 1 or 0 in one
        fresh = stepped.value if real else self.op("Cast", stepped.value, to=int(ir.DataType.FLOAT))
        joined = self.op("Concat", past.input, fresh, axis=timing.axis)
        past.output = self.cut(joined, timing.axis, timing.frames, timing.frames + frames)
        return joined if real else self.op("Cast", joined, to=int(original.dtype or ir.DataType.FLOAT))

    def empty_places(self, shape: Sequence[int], axis: int, frames: int, hold_steps: int) -> ir.Value:
        """Return zeros, but -1e9 where `remember` has no frame yet: to add to scores, so that their share is zero.

        `shape` is that of the places kept, `axis` the one of the frames (the streams are along the first), of which a
        step brings `frames`. What is kept is 0 or 1, which every quantization leaves as it is.
        """
        taken = self.state("taken", shape, hold_steps)
        fresh = [frames if place == axis else size for place, size in enumerate(shape)]
        joined = self.op("Concat", taken.input, self.constant(np.ones(fresh, np.float32), "taken"), axis=axis)
        taken.output = self.cut(joined, axis, frames, frames + shape[axis])
        return self.op("Mul", self.op("Sub", joined, self.constant(1.0, "one")), self.constant(NEVER, "never"))

    def approximate(self, bound: str, how: str) -> None:
        """Take down that the node at hand is approximated under the field `bound` of `Bounds`, and how."""
        self.approximations.setdefault(bound, []).append(f"{self.scope}: {how}" if self.scope else how)

    def align(self, stepped: Stepped, original: ir.Value) -> Stepped:
        """Delay a value until its first valid frame is the first frame of a step."""
        timing = stepped.timing
        if timing is not None and timing.delay < 0:
            stepped = self.delay(stepped, -timing.delay, original)
            timing = stepped.timing
        return stepped if timing is None else self.delay(stepped, -timing.delay % timing.frames, original)

    def settle(self, stepped: Stepped, original: ir.Value) -> Stepped:
        """Delay a value until the source, which drops its last frames, has the newest one, too, and for good."""
        timing = stepped.timing
        return stepped if timing is None else self.delay(stepped, max(timing.settled - timing.delay, 0), original)

    def cut(self, value: ir.Value, axis: int, start: int, stop: int, step: int = 1) -> ir.Value:
        """Take a slice along one axis."""
        bounds = [self.constant(np.array([bound], np.int64), "bound") for bound in (start, stop, axis, step)]
        return self.op("Slice", value, *bounds)


def values_of(inputs: Sequence[Stepped | None]) -> list[ir.Value | None]:
    """Return the values alone."""
    return [None if item is None else item.value for item in inputs]


def step_shape(value: ir.Value, timing: Timing, batch: int) -> tuple[int, ...]:
    """Return the shape in the step graph of a value of the sequence graph: `batch` streams, the step's frames."""
    open_axes = {batch_axis(value, timing): batch, timing.axis: timing.frames}
    sizes = (open_axes.get(axis, size) for axis, size in enumerate(value.shape or ()))
    return tuple(size for size in sizes if isinstance(size, int))


def batch_axis(value: ir.Value, timing: Timing) -> int:
    """Return along which axis a value of the sequence graph has its streams: besides time, the one of unknown size."""
    open_axes = [axis for axis, size in enumerate(value.shape or ()) if not isinstance(size, int)]
    ones = [axis for axis, size in enumerate(value.shape or ()) if size == 1]  # of a graph that serves one stream only
    axes = [axis for axis in open_axes if axis != timing.axis] or ones[:1]
    if len(axes) != 1:
        raise ConversionError(
            f"{value.name}: expected a shape in which batch and time alone are open, found {value.shape}; where "
            "PyTorch attends, as nn.MultiheadAttention does, export it with need_weights=False"
        )
    return axes[0]

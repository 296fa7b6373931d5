"""What a runner does to its states between steps: reset, snapshot, restore, and hold during the warm-up.

All of it for every stream of a batch, or for one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.devices.contexts import ContextKeeper
from edgernn.errors import ShapeError, UsageError
from edgernn.spec import MEANING, STEPS, StateSpec, StreamSpec
from edgernn.stream import Context, State

__all__ = ["StateKeeper", "StatefulRunner"]

Place = tuple[slice | list[int] | EllipsisType, ...]


class StateKeeper:
    """Writes and reads states in arrays that a runner owns, one array a state, in the order of the specs.

    A snapshot has the contexts, too, whose arrays stand behind those of the states.
    """

    def __init__(self, spec: StreamSpec) -> None:
        self._specs = spec.states
        held = (StateSpec(c.name, c.name, c.name, c.shape, c.dtype, c.quant) for c in spec.contexts)
        self._kept = (*spec.states, *held)
        self._meaning = _digest(self._kept)
        self._batch = spec.batch
        self._initial = [state.initial_array() for state in spec.states]
        self._lanes = [[self._place(state, [stream]) for state in spec.states] for stream in range(spec.batch)]
        self.longest = max((state.hold_steps for state in spec.states), default=0)
        """Steps after a reset during which some state keeps its initial value."""
        self.made = np.zeros(spec.batch, np.int64)
        """Steps since the reset of each stream, as far as that matters."""
        self.holding = False
        """Whether some state is to be put back to its initial value after the next step."""

    def reset(self, arrays: Sequence[NDArray[Any]], stream: int | None = None) -> None:
        """Write the initial values, of one stream or of all."""
        for lane in self.chosen(stream):
            for array, initial, place in zip(arrays, self._initial, self._lanes[lane], strict=True):
                array[place] = initial[place]
            self.made[lane] = 0
        self._note()

    def hold(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Put back the states whose inputs were not valid yet in the step just made."""
        for lane, made in enumerate(self.made):
            for spec, array, initial, place in zip(self._specs, arrays, self._initial, self._lanes[lane], strict=True):
                if made < spec.hold_steps:
                    array[place] = initial[place]
        np.minimum(self.made + 1, self.longest, out=self.made)
        self._note()

    def _note(self) -> None:
        self.holding = bool(self.made.min() < self.longest)

    def snapshot(self, arrays: Sequence[NDArray[Any]], stream: int | None = None) -> State:
        """Return copies of states and contexts, and of how far the warm-up is."""
        chosen = self.chosen(stream)
        copies = {
            spec.name: np.array(array[self._place(spec, chosen)], order="C")
            for spec, array in zip(self._kept, arrays, strict=True)
        }
        return {**copies, STEPS: self.made[chosen], MEANING: self._meaning.copy()}

    def restore(self, arrays: Sequence[NDArray[Any]], state: State, stream: int | None = None) -> None:
        """Write a snapshot; raise `ShapeError`, with nothing written, if it is not one of this model."""
        chosen = self.chosen(stream)
        self._check(state, len(chosen))
        for spec, array in zip(self._kept, arrays, strict=True):
            array[self._place(spec, chosen)] = state[spec.name]
        self.made[chosen] = state[STEPS]
        self._note()

    def _check(self, state: State, streams: int) -> None:
        expected = {spec.name: (self._shape(spec, streams), spec.dtype) for spec in self._kept}
        expected[STEPS] = ((streams,), "int64")
        expected[MEANING] = (self._meaning.shape, str(self._meaning.dtype))
        found = {name: (array.shape, str(array.dtype)) for name, array in state.items()}
        if found != expected:
            wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            raise ShapeError(
                f"the snapshot is of another model, or of another number of streams: '{wrong[0]}' should be "
                f"{expected.get(wrong[0], 'not there')}, found {found.get(wrong[0], 'not there')}"
            )
        if not np.array_equal(state[MEANING], self._meaning):
            raise ShapeError(
                "the snapshot is of another model: its states have other scales, initial values or warm-ups than those "
                "of this one, though the same shapes; restore it in the model file that it was taken of"
            )

    def chosen(self, stream: int | None) -> list[int]:
        """Return the indices of the streams that are meant; raise `UsageError` for one that there is not."""
        if stream is None:
            return list(range(self._batch))
        if not 0 <= stream < self._batch:
            raise UsageError(f"a step serves the streams 0 to {self._batch - 1}; there is no stream {stream}")
        return [stream]

    def _place(self, spec: StateSpec, chosen: list[int]) -> Place:
        """Return where the chosen streams are in a state; one that is alone is all of it."""
        return (...,) if self._batch == 1 else (slice(None),) * spec.batch_axis + (chosen,)

    def _shape(self, spec: StateSpec, streams: int) -> tuple[int, ...]:
        if self._batch == 1:
            return spec.shape
        return (*spec.shape[: spec.batch_axis], streams, *spec.shape[spec.batch_axis + 1 :])


def _digest(specs: Sequence[StateSpec]) -> NDArray[np.uint8]:
    """Return what tells states with the same names, shapes and dtypes apart, shape `(8,)`."""
    meaning = [(s.name, s.quant and (s.quant.scale, s.quant.zero_point), s.initial, s.hold_steps) for s in specs]
    digest = hashlib.blake2b(json.dumps(meaning).encode(), digest_size=8)
    return np.frombuffer(digest.digest(), np.uint8)


class StatefulRunner:
    """What runners have in common: states and contexts in arrays of their own, which keepers write and read."""

    spec: StreamSpec
    _keeper: StateKeeper
    _contexts: ContextKeeper
    _states: list[NDArray[Any]]
    _invoke: Callable[..., object]
    """What a step calls: the model or, until every stream has its context, what says so; a step need not ask."""
    _withheld: Callable[..., object] | None = None

    def _open(self, invoke: Callable[..., object]) -> None:
        self._withheld = invoke if self.spec.contexts else None
        self._invoke = self._lacks_context if self.spec.contexts else invoke

    def _lacks_context(self, *_: object) -> None:
        self._contexts.check(range(self.spec.batch))

    def _given(self, chosen: Sequence[int]) -> None:
        self._contexts.given(chosen)
        if self._withheld is not None and not self._contexts.missing:
            self._invoke, self._withheld = self._withheld, None

    def reset(self, stream: int | None = None, context: Context | None = None) -> None:
        """Put every state back to its initial value, of one stream or of all; give these a context, if there is one."""
        chosen = self._keeper.chosen(stream)
        if context is not None:
            self._contexts.give(context, chosen)
            self._given(chosen)
        self._begin(stream)

    def _begin(self, stream: int | None) -> None:
        self._keeper.reset(self._states, stream)

    def snapshot(self, stream: int | None = None) -> State:
        """Return copies of all states and contexts, and of how far the warm-up is."""
        self._contexts.check(self._keeper.chosen(stream))
        return self._keeper.snapshot([*self._states, *self._contexts.arrays], stream)

    def restore(self, state: State, stream: int | None = None) -> None:
        """Go on from a snapshot; raise `ShapeError` if it is not one of this model."""
        self._keeper.restore([*self._states, *self._contexts.arrays], state, stream)
        self._given(self._keeper.chosen(stream))

"""What a runner does to its states between steps: reset, snapshot, restore, and hold during the warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ShapeError
from edgernn.spec import StateSpec
from edgernn.stream import State

__all__ = ["StateKeeper"]

STEPS = "(steps)"  # in a snapshot, beside the states; no layer has such a name


class StateKeeper:
    """Writes and reads states in arrays that a runner owns, one array a state, in the order of the specs."""

    def __init__(self, specs: Sequence[StateSpec]) -> None:
        self._specs = tuple(specs)
        self._initial = [spec.initial_array() for spec in specs]
        self._longest = max((spec.hold_steps for spec in specs), default=0)
        self.holding = 0
        """Steps still to come after which some state is put back to its initial value."""

    def reset(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Write the initial values."""
        for array, initial in zip(arrays, self._initial, strict=True):
            array[...] = initial
        self.holding = self._longest

    def hold(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Put back the states whose inputs were not valid yet in the step just made."""
        steps_made = self._longest - self.holding
        for spec, array, initial in zip(self._specs, arrays, self._initial, strict=True):
            if steps_made < spec.hold_steps:
                array[...] = initial
        self.holding -= 1

    def snapshot(self, arrays: Sequence[NDArray[Any]]) -> State:
        """Return copies of the states, and of how far the warm-up is."""
        copies = {spec.name: array.copy() for spec, array in zip(self._specs, arrays, strict=True)}
        return {**copies, STEPS: np.array(self._longest - self.holding)}

    def restore(self, arrays: Sequence[NDArray[Any]], state: State) -> None:
        """Write a snapshot; raise `ShapeError`, with nothing written, if it is not one of this model."""
        expected = {spec.name: (spec.shape, spec.dtype) for spec in self._specs}
        found = {name: (array.shape, str(array.dtype)) for name, array in state.items() if name != STEPS}
        if found != expected or STEPS not in state:
            wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name)) or [STEPS]
            raise ShapeError(
                f"the snapshot is of another model: '{wrong[0]}' should be {expected.get(wrong[0])}, "
                f"found {found.get(wrong[0])}"
            )
        for spec, array in zip(self._specs, arrays, strict=True):
            array[...] = state[spec.name]
        self.holding = self._longest - int(state[STEPS])

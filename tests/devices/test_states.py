"""States of one stream among several, and of a model that knows no batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgernn.devices.states import StateKeeper
from edgernn.errors import ShapeError, UsageError
from edgernn.spec import STEPS, QuantParams, StateSpec, StreamSpec


def keeper_of(*states: StateSpec, batch: int = 1) -> StateKeeper:
    return StateKeeper(StreamSpec((), (), states, batch=batch))


def test_a_state_without_a_batch_axis_is_all_of_the_one_stream() -> None:
    keeper, array = keeper_of(StateSpec("h", "i", "o", (2, 3), initial=7.0)), np.zeros((2, 3), np.float32)
    keeper.reset([array], 0)
    assert (array == 7).all()
    array[...] = np.arange(6).reshape(2, 3)
    kept = keeper.snapshot([array], 0)
    assert kept["h"].tolist() == [[0, 1, 2], [3, 4, 5]]
    array[...] = 0
    keeper.restore([array], kept)
    np.testing.assert_array_equal(array, kept["h"])


def test_streams_are_held_each_for_its_own_time() -> None:
    keeper = keeper_of(StateSpec("h", "i", "o", (1, 2, 1), hold_steps=2, batch_axis=1), batch=2)
    array = np.zeros((1, 2, 1), np.float32)
    keeper.reset([array])
    seen = []
    for step in range(5):
        if step == 3:
            keeper.reset([array], 1)
        array += 1
        if keeper.holding:
            keeper.hold([array])
        seen.append(array.ravel().tolist())
    assert seen == [[0, 0], [0, 0], [1, 1], [2, 0], [3, 0]]
    assert keeper.snapshot([array])[STEPS].tolist() == [2, 2]


def test_what_does_not_fit_is_named_and_changes_nothing() -> None:
    keeper = keeper_of(StateSpec("h", "i", "o", (3, 2)), batch=3)
    array = np.ones((3, 2), np.float32)
    both, one = keeper.snapshot([array]), keeper.snapshot([array], 1)
    assert one["h"].shape == (1, 2)
    array[...] = 5
    for state, stream in ((both, 1), (one, None), ({**one, "c": one["h"]}, 2)):
        with pytest.raises(ShapeError, match="another model, or of another number of streams"):
            keeper.restore([array], state, stream)
    with pytest.raises(UsageError, match="the streams 0 to 2; there is no stream 3"):
        keeper.reset([array], 3)
    assert (array == 5).all()


ONE = StateSpec("h", "i", "o", (1, 2), "int8", QuantParams(0.5, 3))
OTHERS = {
    "scale": replace(ONE, quant=QuantParams(0.25, 3)),
    "zero": replace(ONE, quant=QuantParams(0.5, 4)),
    "no scale": replace(ONE, quant=None),
    "initial value": replace(ONE, initial=1.0),
    "warm-up": replace(ONE, hold_steps=1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_snapshot_of_states_that_mean_something_else_is_refused(name: str) -> None:
    taken = keeper_of(ONE).snapshot([np.full((1, 2), 7, np.int8)])
    array = np.ones((1, 2), np.int8)
    with pytest.raises(ShapeError, match="of another model: its states have other scales"):
        keeper_of(OTHERS[name]).restore([array], taken)
    assert (array == 1).all(), "nothing is written"
    keeper_of(replace(ONE, input="elsewhere")).restore([array], taken)
    assert (array == 7).all(), "names of tensors are those of a file, and nothing of the state"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgernn.quantize.oracle import KerasOracle


def test_layers_on_each_frame_take_any_length() -> None:
    x = keras.Input((None, 6, 2))
    y = layers.TimeDistributed(layers.BatchNormalization())(layers.TimeDistributed(layers.Conv1D(3, 2))(x))
    y = layers.TimeDistributed(layers.Dropout(0.5))(layers.TimeDistributed(layers.Flatten())(y))
    model = keras.Model(x, layers.GRU(4, return_sequences=True)(y))
    oracle = KerasOracle(model)
    for length in (5, 12, 5):
        frames = np.random.default_rng(length).standard_normal((length, 6, 2)).astype(np.float32)
        np.testing.assert_allclose(oracle([frames])[0], np.asarray(model(frames[None]))[0], atol=1e-6)


@pytest.mark.parametrize("structure", [list, lambda items: {"frames": items[0]}], ids=["list", "dict"])
def test_a_fixed_length_is_lifted_whatever_the_inputs_are_in(structure: Callable[[list[Any]], Any]) -> None:
    x = keras.Input((8, 3), name="frames")
    model = keras.Model(structure([x]), layers.GRU(2, return_sequences=True)(x))
    frames = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    oracle = KerasOracle(model)
    np.testing.assert_allclose(oracle([frames])[0], np.asarray(model(structure([frames[None]])))[0], atol=1e-6)
    assert oracle([frames[:5]])[0].shape == (5, 2)

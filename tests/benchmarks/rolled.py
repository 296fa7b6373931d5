"""Rolled recurrent Keras models, as people train them: what the comparison of converters starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEATURES", "LONG", "MODELS", "OUTPUTS", "SHORT", "UNITS", "WINDOW", "build", "frames"]

FEATURES, UNITS, OUTPUTS = 40, 128, 12
WINDOW = 49  # frames of a model of fixed length
SHORT, LONG = 500, 5000  # steps over which errors are told

Layers = Callable[[Any, bool], Sequence[Any]]


def frames(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return `count` frames like features: half of each changes slowly. Shape `(count, FEATURES)`."""
    random = np.random.default_rng(seed)
    fast, slow = random.standard_normal((2, count, FEATURES))
    for index in range(1, count):
        slow[index] = 0.9 * slow[index - 1] + np.sqrt(1 - 0.9**2) * slow[index]
    mixed: NDArray[np.float32] = ((fast + slow) / np.sqrt(2)).astype(np.float32)
    return mixed


def build(name: str, length: int | None = None, stateful: bool = False) -> Any:
    """Return the model `name`, its weights the same each time: `(batch, length, FEATURES)` to softmax scores.

    A stateful one takes one stream.
    """
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((length, FEATURES), batch_size=1 if stateful or length else None)
    y = x
    for layer in MODELS[name](keras.layers, stateful):
        y = layer(y)
    return keras.Model(x, keras.layers.Dense(OUTPUTS, activation="softmax")(y))


MODELS: dict[str, Layers] = {
    "LSTM": lambda k, s: [k.LSTM(UNITS, return_sequences=True, stateful=s)],
    "GRU": lambda k, s: [k.GRU(UNITS, return_sequences=True, stateful=s)],
    "GRU, reset before": lambda k, s: [k.GRU(UNITS, return_sequences=True, reset_after=False, stateful=s)],
    "SimpleRNN": lambda k, s: [k.SimpleRNN(UNITS, return_sequences=True, stateful=s)],
    "2 x LSTM": lambda k, s: [k.LSTM(UNITS, return_sequences=True, stateful=s) for _ in range(2)],
    "2 x GRU": lambda k, s: [k.GRU(UNITS, return_sequences=True, stateful=s) for _ in range(2)],
    "causal Conv1D + GRU": lambda k, s: [
        k.Conv1D(64, 3, padding="causal", activation="relu"),
        k.GRU(UNITS, return_sequences=True, stateful=s),
    ],
    "LSTM, last frame": lambda k, s: [k.LSTM(UNITS, stateful=s)],
    "Bidirectional LSTM": lambda k, s: [k.Bidirectional(k.LSTM(UNITS // 2, return_sequences=True))],
    "Bidirectional GRU": lambda k, s: [k.Bidirectional(k.GRU(UNITS // 2, return_sequences=True))],
}
"""Name to the layers under the last Dense, for a stateful model or one that starts anew."""

"""Networks drawn at random from the layers that stream exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from hypothesis import strategies as st
from keras import layers

from tests.quantize.building import frames

__all__ = ["draw_network"]

WIDTHS = st.integers(1, 6)
ACTIVATIONS = st.sampled_from(["linear", "tanh", "relu", "sigmoid", "elu"])
Draw = Callable[[st.SearchStrategy[Any]], Any]
"""`draw` of `st.data()`: Keras takes random numbers of its own, which a strategy must not."""


def _recurrent(draw: Draw, value: Any) -> Any:
    options: dict[str, Any] = {"return_sequences": True, "use_bias": draw(st.booleans())}
    kind = draw(st.sampled_from([layers.LSTM, layers.GRU, layers.SimpleRNN]))
    if kind is layers.GRU:
        options["reset_after"] = draw(st.booleans())
    return kind(draw(WIDTHS), **options)(value)


def _convolution(draw: Draw, value: Any) -> Any:
    """Return one that keeps the length, so that it may meet another branch."""
    size, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    options: dict[str, Any] = {"dilation_rate": dilation, "activation": draw(ACTIVATIONS)}
    if draw(st.booleans()):
        return layers.Conv1D(draw(WIDTHS), size, padding=draw(st.sampled_from(["causal", "same"])), **options)(value)
    return layers.SeparableConv1D(draw(WIDTHS), size, padding="same", **options)(value)


def _valid(draw: Draw, value: Any) -> Any:
    return layers.Conv1D(draw(WIDTHS), draw(st.integers(2, 5)), activation=draw(ACTIVATIONS))(value)


def _strided(draw: Draw, value: Any) -> Any:
    padding = draw(st.sampled_from(["valid", "same"]))
    if draw(st.booleans()):
        return layers.Conv1D(draw(WIDTHS), draw(st.integers(2, 3)), strides=2, padding=padding)(value)
    kind = draw(st.sampled_from([layers.AveragePooling1D, layers.MaxPooling1D]))
    return kind(draw(st.integers(2, 3)), strides=2, padding=padding)(value)


def _by_frame(draw: Draw, value: Any) -> Any:
    return draw(
        st.sampled_from(
            [
                layers.Dense(draw(WIDTHS), activation=draw(ACTIVATIONS)),
                layers.LayerNormalization(),
                layers.BatchNormalization(),
                layers.Activation("softsign"),
                layers.TimeDistributed(layers.Dense(draw(WIDTHS))),
            ]
        )
    )(value)


def _branches(draw: Draw, value: Any) -> Any:
    """Two ways that meet again, one of them often later than the other."""
    one, other = (draw(st.sampled_from([_recurrent, _convolution, _by_frame]))(draw, value) for _ in range(2))
    if one.shape[-1] == other.shape[-1] and draw(st.booleans()):
        return draw(st.sampled_from([layers.Add, layers.Multiply, layers.Maximum]))()([one, other])
    return layers.Concatenate()([one, other])


def _last(draw: Draw, value: Any) -> Any:
    """Return what gives one value for the sequence."""
    kind = draw(st.sampled_from([layers.GRU, layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D]))
    return kind(draw(WIDTHS))(value) if kind is layers.GRU else kind()(value)


PARTS = [_recurrent, _recurrent, _convolution, _valid, _by_frame, _branches]


def draw_network(draw: Draw) -> Any:
    """Return a Keras model of up to four parts, with at most two strides, one output or two."""
    value = first = frames(draw(WIDTHS))
    for part in draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4)):
        value = part(draw, value)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        value = _strided(draw, value)
    ahead = any(getattr(layer, "padding", None) == "same" for layer in keras.Model(first, value).layers)
    outputs = [layers.Dense(draw(WIDTHS))(value)]
    if not ahead and draw(st.booleans()):  # one value for a sequence that looked ahead would depend on its end
        outputs.append(_last(draw, value))
    return keras.Model(first, outputs)

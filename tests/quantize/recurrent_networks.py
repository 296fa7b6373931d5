"""Networks of recurrent cells, of cells of one's own, of masks, and of final states."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from tests.quantize.building import Build, chain, frames

__all__ = ["CELLS", "MASKED", "Leaky"]


class Leaky(layers.Layer):  # type: ignore[misc]
    """A cell of one's own: a leaky integrator (state) whose output is not its state."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = self.state_size = units
        self.output_size = 2 * units

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, x: Any, states: Any, training: bool = False) -> Any:
        (before,) = states
        after = 0.9 * before + 0.1 * ops.matmul(x, self.kernel)
        return ops.concatenate([after, ops.relu(after - before)], axis=-1), [after]


def _every(cell: Any, **options: Any) -> Any:
    return layers.RNN(cell, return_sequences=True, **options)


def _stack() -> Any:
    return layers.StackedRNNCells([layers.LSTMCell(5), layers.GRUCell(4), layers.SimpleRNNCell(3)])


def _states_as_outputs() -> Any:
    first = frames()
    every, h, c = layers.LSTM(4, return_sequences=True, return_state=True)(first)
    last, state = layers.GRU(3, return_state=True)(every)
    return keras.Model(first, [every, h, layers.Dense(2)(c), last, state * 2.0])


def _stacked_states() -> Any:
    first = frames()
    last, *states = layers.RNN(_stack(), return_state=True)(first)
    return keras.Model(first, [last, *keras.tree.flatten(states)])


def _window_before_a_scan() -> Any:
    """Cells of one's own behind windows and strides: held states, and several frames a step."""
    first = frames()
    value = layers.Conv1D(4, 3, strides=2)(first)
    return keras.Model(first, [_every(Leaky(3))(value), layers.Conv1D(2, 2)(_every(Leaky(2))(value))])


CELLS: dict[str, Build] = {
    "lstm_cell": lambda: chain(_every(layers.LSTMCell(5, unit_forget_bias=False))),
    "gru_cell": lambda: chain(_every(layers.GRUCell(5, reset_after=False)), layers.RNN(layers.GRUCell(3))),
    "simple_cell": lambda: chain(_every(layers.SimpleRNNCell(5, activation="relu"))),
    "stacked_cells": lambda: chain(_every(_stack())),
    "stacked_cells_last": lambda: chain(layers.RNN(_stack()), layers.Dense(2)),
    "cells_stacked_twice": lambda: chain(_every(layers.StackedRNNCells([_stack(), layers.GRUCell(2)]))),
    "cell_of_one's_own": lambda: chain(_every(Leaky(4)), layers.Dense(3)),
    "cell_of_one's_own_stacked": lambda: chain(_every(layers.StackedRNNCells([Leaky(4), layers.LSTMCell(3)]))),
    "cell_of_one's_own_behind_windows": _window_before_a_scan,
    "states_as_outputs": _states_as_outputs,
    "stacked_states": _stacked_states,
    "lstm_gelu": lambda: chain(layers.LSTM(4, activation="gelu", recurrent_activation="hard_tanh")),
    "gru_swish": lambda: chain(layers.GRU(4, activation="silu", return_sequences=True)),
    "gru_swish_before": lambda: chain(layers.GRU(4, activation="selu", reset_after=False, return_sequences=True)),
    "rnn_of_one's_own_activation": lambda: chain(
        layers.SimpleRNN(4, activation=lambda x: ops.sin(x), return_sequences=True)
    ),
    "lstm_layer_inside": lambda: chain(layers.LSTM(4, activation=layers.ReLU(max_value=2.0))),
}


def _inside(*parts: Any) -> Build:
    """The same, with the masking and what heeds it in one graph."""

    def build() -> Any:
        first = frames()
        value = layers.Masking(0.0)(ops.round(first[:, :, :2] * 0.7))
        for part in parts:
            value = part(value)
        return keras.Model(first, value)

    return build


def _words() -> Any:
    first = keras.Input((None,), dtype="int32", name="words")
    value = layers.Embedding(6, 5, mask_zero=True)(first)
    value = layers.Add()([layers.Dense(4)(value), layers.GRU(4, return_sequences=True)(value)])
    return keras.Model(first, layers.LSTM(3)(value))


def _mask_as_an_input() -> Any:
    first, mask = frames(), keras.Input((None,), dtype="bool", name="mask")
    return keras.Model([first, mask], layers.LSTM(4, return_sequences=True)(first, mask=mask))


def _mask_and_states() -> Any:
    first = frames()
    masked = layers.Masking(0.0)(ops.round(first[:, :, :2] * 0.7))
    every, h, c = layers.LSTM(3, return_sequences=True, return_state=True)(masked)
    return keras.Model(first, [every, h, c])


MASKED: dict[str, Build] = {
    "masked_lstm": _inside(layers.LSTM(4, return_sequences=True)),
    "masked_gru": _inside(layers.GRU(4, return_sequences=True), layers.Dropout(0.1), layers.GRU(3)),
    "masked_simple": _inside(layers.SimpleRNN(4, return_sequences=True), layers.Activation("tanh"), layers.LSTM(2)),
    "masked_to_zero": _inside(layers.LSTM(4, return_sequences=True, zero_output_for_mask=True)),
    "masked_stack": _inside(_every(_stack())),
    "masked_stack_to_zero": _inside(_every(_stack(), zero_output_for_mask=True)),
    "masked_cell_of_one's_own": _inside(_every(Leaky(3)), layers.Dense(2)),
    "masked_norm": _inside(layers.BatchNormalization(), layers.TimeDistributed(layers.Dense(3)), layers.GRU(3)),
    "masked_and_states": _mask_and_states,
    "masked_mean": _inside(layers.GRU(4, return_sequences=True), layers.GlobalAveragePooling1D(), layers.Dense(3)),
    "masked_words": _words,
    "mask_as_an_input": _mask_as_an_input,
    "masked_nothing": _inside(layers.Dense(3)),
}

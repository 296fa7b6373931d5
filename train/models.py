"""Keras models for streams of frames: from `(batch, frames, bands)` to the logits after the last frame.

Only layers that have a streaming rule are used, and nothing of any one backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from edgernn.errors import UsageError
from edgernn.train.recipe import ModelRecipe

__all__ = ["MODELS", "build_model", "crnn", "gru", "lstm"]


def lstm(frames: Any, recipe: ModelRecipe) -> Any:
    """Stack LSTM layers (Hochreiter and Schmidhuber 1997)."""
    return _recurrent(layers.LSTM, frames, recipe)


def gru(frames: Any, recipe: ModelRecipe) -> Any:
    """Stack GRU layers (Cho et al. 2014, arXiv:1406.1078; reset gate after the product, as cuDNN has it)."""
    return _recurrent(layers.GRU, frames, recipe)


def crnn(frames: Any, recipe: ModelRecipe) -> Any:
    """Halve the frame rate with each causal convolution, then stack GRU layers.

    After Arik et al. 2017, arXiv:1703.05390, with one direction only, so that it can stream.
    """
    for filters in recipe.conv_filters:
        frames = _convolve(frames, filters, recipe.conv_kernel, strides=2)
        for _ in range(recipe.conv_blocks):
            frames = layers.Add()([frames, _convolve(frames, filters, 3, strides=1)])
    return _recurrent(layers.GRU, layers.Dropout(recipe.dropout)(frames), recipe)


def _convolve(frames: Any, filters: int, kernel: int, strides: int) -> Any:
    frames = layers.Conv1D(filters, kernel, strides=strides, padding="causal", use_bias=False)(frames)
    return layers.ReLU()(layers.BatchNormalization()(frames))


MODELS: dict[str, Callable[[Any, ModelRecipe], Any]] = {"crnn": crnn, "gru": gru, "lstm": lstm}


def build_model(recipe: ModelRecipe, bands: int, classes: int) -> keras.Model:
    """Return the model of the recipe: `(batch, frames, bands)` to logits `(batch, classes)`, float32."""
    if recipe.kind not in MODELS:
        raise UsageError(f"there is no model '{recipe.kind}'; the models are: {', '.join(MODELS)}")
    inputs = keras.Input((None, bands), name="frames")
    last = MODELS[recipe.kind](inputs, recipe)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(last), name=recipe.kind)


def _recurrent(layer: type[layers.Layer], frames: Any, recipe: ModelRecipe) -> Any:
    """Stack `layer` over `frames`; return what the topmost one gives for the last frame."""
    for depth, units in enumerate(recipe.units, start=1):
        last = depth == len(recipe.units)
        frames = layers.Dropout(recipe.dropout)(layer(units, return_sequences=not last)(frames))
    return frames

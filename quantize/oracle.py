"""The source model as the truth, on whole sequences."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ConversionError
from edgernn.quantize.contexts import Asked, Contexts, contexts_of
from edgernn.text import one_line

__all__ = ["GraphOracle", "KerasOracle", "Oracle", "Run"]

Run = Callable[[Mapping[str, NDArray[Any]], Sequence[str]], dict[str, Any]]
"""Runs a graph once on values by name, and returns the values that are asked for."""


class Oracle(ABC):
    """Runs a model on whole sequences of any length, each from a fresh state."""

    def __call__(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Return every output for one stream.

        `frames` has an array for each input, shape `(frames, features...)`, then one for each context. Outputs have
        the shape `(frames, features...)` or, where the model gives one value for the sequence, `(features...)`.
        """
        return [output[0] for output in self.batch([array[None] for array in frames])]

    @abstractmethod
    def batch(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Return every output for several streams of one length, `(streams, frames, features...)` for each input.

        Behind those, for each context, `(streams, ...)`.
        """


Same = TypeVar("Same", bound="GraphOracle")


class GraphOracle(Oracle):
    """A graph whose inputs and outputs have names, run by ONNX Runtime or another program."""

    _run: Run

    def run_by(self: Same, run: Run) -> Same:
        """Return the same, run by what the graph was made from: its inputs and outputs are called the same there."""
        other = copy.copy(self)
        other._run = run
        return other


class KerasOracle(Oracle):
    """Keras itself."""

    def __init__(self, model: Any, contexts: Asked | None = None) -> None:
        held = contexts_of(model, contexts)
        self.model = _free(model, held)
        names = [tensor._keras_history.operation.name for tensor in self.model.inputs]
        given = [*(name for name in names if name not in held), *(name for name in names if name in held)]
        self._order = [given.index(name) for name in names]

    def batch(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Call the model; raise `ConversionError` where it cannot run on so many frames."""
        import keras

        try:
            fed = _as_inputs(self.model, [frames[place] for place in self._order])
            with warnings.catch_warnings():  # a beginning of one frame is asked for on purpose
                warnings.filterwarnings("ignore", "You are using a softmax over axis")
                outputs = self.model.predict_on_batch(fed)
        except Exception as error:  # whatever the back end says, at length
            raise ConversionError(
                f"'{self.model.name}' cannot be run on {frames[0].shape[1]} frames: "
                f"{one_line(' '.join(str(error).split())[-200:])}"
            ) from error
        return [np.asarray(output) for output in keras.tree.flatten(outputs)]


def _as_inputs(model: Any, arrays: Sequence[Any]) -> Any:
    """Return one for each input in the structure that the model was made with: alone, in a list, in a dict."""
    import keras

    structure = getattr(model, "_inputs_struct", None)  # a Sequential has none
    return arrays[0] if structure is None else keras.tree.pack_sequence_as(structure, list(arrays))


def _free(model: Any, contexts: Contexts) -> Any:
    """Return the model for any batch and length (but for that of contexts), and without a memory between calls."""
    import keras

    names = [item._keras_history.operation.name for item in model.inputs]
    sizes = [item.shape[1] if name in contexts else None for item, name in zip(model.inputs, names, strict=True)]
    fixed = any((None, size) != item.shape[:2] for item, size in zip(model.inputs, sizes, strict=True))
    layers = list(model._flatten_layers())
    frame_by_frame = any(isinstance(layer, keras.layers.TimeDistributed) for layer in layers)
    if not fixed and not frame_by_frame and not any(getattr(layer, "stateful", False) for layer in layers):
        return model

    def stateless(layer: Any) -> Any:
        each = isinstance(layer, keras.layers.TimeDistributed)
        if not each and not getattr(layer, "stateful", False):
            return layer  # as it is, with code in it that no configuration holds
        config = layer.get_config()
        if "stateful" in config:
            config["stateful"] = False
        return (_all_frames_at_once() if each else type(layer)).from_config(config)

    inputs = [
        keras.Input((size, *item.shape[2:]), name=name, dtype=item.dtype)
        for item, name, size in zip(model.inputs, names, sizes, strict=True)
    ]
    try:
        free = keras.models.clone_model(model, input_tensors=_as_inputs(model, inputs), clone_function=stateless)
        free.set_weights(model.get_weights())
    except Exception as error:  # whatever a layer says of a length that it does not know
        raise ConversionError(
            f"'{model.name}' has a fixed batch or length and cannot be rebuilt for any: "
            f"{one_line(error, 200)}; save it with keras.Input((None, ...))"
        ) from error
    return free


def _all_frames_at_once() -> Any:
    """Return a TimeDistributed that lays the frames along the batch and calls its layer once.

    Keras' own (3.15) calls its layer frame by frame where it knows the length, which takes a minute for 5,000 frames,
    and gives as many frames as there are streams where it does not.
    """
    import keras

    class AllFramesAtOnce(keras.layers.TimeDistributed):  # type: ignore[misc]
        def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
            shape = keras.ops.shape(inputs)
            given = self.layer.call(keras.ops.reshape(inputs, (-1, *inputs.shape[2:])))
            return keras.ops.reshape(given, (-1, shape[1], *given.shape[1:]))

    return AllFramesAtOnce

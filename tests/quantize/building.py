"""What the tests build small Keras networks of, and ask them with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

Array = NDArray[np.float32]
Build = Callable[[], Any]
FEATURES = 6


def frames(features: int = FEATURES, name: str = "frames", length: int | None = None) -> Any:
    """Return the input of a model."""
    return keras.Input((length, features), name=name)


def chain(*parts: Any, features: int = FEATURES, length: int | None = None) -> Any:
    """Return a model of one layer behind the other."""
    value = first = frames(features, length=length)
    for part in parts:
        value = part(value)
    return keras.Model(first, value)


def randomized(model: Any, seed: int = 0) -> Any:
    """Give a model weights among which none could be mistaken for another: biases and statistics too."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        kind = weight.path.rpartition("/")[2]
        if kind in ("seed_generator_state", "count"):
            continue
        if "variance" in kind:
            weight.assign(random.uniform(0.5, 2.0, weight.shape))
        elif kind in ("moving_mean", "mean", "beta", "bias", "alpha"):
            weight.assign(random.normal(0.0, 0.3, weight.shape))
        elif kind == "gamma":
            weight.assign(random.uniform(0.6, 1.4, weight.shape))
        else:
            fan_in = max(int(np.prod(weight.shape[:-1])), 1)
            weight.assign(random.normal(0.0, 1.2 / np.sqrt(fan_in), weight.shape))
    return model


def streams_for(model: Any, length: int = 40, seed: int = 1) -> list[Array]:
    """Return noise for every input, `(frames, features...)`, as long as the model wants it where it wants that."""
    random = np.random.default_rng(seed)
    return [_noise(random, (item.shape[1] or length, *item.shape[2:]), item) for item in model.inputs]


def _noise(random: np.random.Generator, shape: tuple[int, ...], item: Any) -> Array:
    """Return noise or, for an input of whole numbers or of single ones, numbers below five: tables are larger."""
    if item.dtype == "float32" and len(shape) > 1:
        return random.standard_normal(shape).astype(np.float32)
    return random.integers(0, 2 if item.dtype == "bool" else 5, shape).astype(item.dtype)


def keras_outputs(model: Any, batches: list[Array]) -> list[Array]:
    """Ask Keras for every output on whole sequences `(batch, frames, features)`, from a fresh state."""
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False):
            layer.reset_state()
    structure = getattr(model, "_inputs_struct", None)  # a Sequential has none
    fed = batches[0] if structure is None else keras.tree.pack_sequence_as(structure, list(batches))
    outputs = model(fed, training=False)
    return [np.asarray(item, np.float32) for item in keras.tree.flatten(outputs)]


def reference(model: ir.Model, fed: dict[str, Array]) -> list[Array]:
    """Run a graph with ONNX' reference evaluator."""
    return list(ReferenceEvaluator(ir.to_proto(model)).run(None, fed))

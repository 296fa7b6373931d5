"""SavedModel folders that Keras 2 wrote: the layers are in their metadata, and are built anew from these.

The graph in the folder is not read, so that no code in it is run. Keras 3 exports a SavedModel without layers, of which
the graph is all that there is: see `saved_graphs`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgernn.errors import ConversionError
from edgernn.files import read_file
from edgernn.quantize.keras_legacy import modern

__all__ = ["Layers", "has_layers", "is_saved_model", "load_saved_model", "read_layers"]

METADATA = "keras_metadata.pb"
MOST_METADATA = 256 * 2**20  # bytes
PATH, JSON = 3, 5  # numbers of the fields of SavedObject (keras/protobuf/saved_metadata.proto): node_path, metadata
LAYER_PATH = r"root(\.layer_with_weights-\d+)+"
INSIDE = ("backward_layer", "cell", "cells", "forward_layer", "layer")


def is_saved_model(path: Path) -> bool:
    """Tell whether a path is the folder of a SavedModel."""
    return (path / "saved_model.pb").is_file()


def has_layers(folder: Path) -> bool:
    """Tell whether the folder of a SavedModel says what layers the model has."""
    return (folder / METADATA).exists()


@dataclass(frozen=True)
class Layers:
    """What the metadata says of the layers."""

    config: Any
    """Of the model, as Keras 3 reads it."""
    names: dict[str, str]
    """Where each layer that has weights is in the checkpoint ("root.layer_with_weights-0"), and its name."""


def read_layers(folder: Path) -> Layers:
    """Read the metadata of a SavedModel folder.

    Raises `ConversionError` for one that cannot be read.
    """
    try:
        content = read_file(folder / METADATA, MOST_METADATA)
        objects = {item[PATH].decode(): json.loads(item[JSON]) for item in _objects(content) if JSON in item}
        config = _placed(modern(objects["root"]["model_config"]))
        kept = {path: item["name"] for path, item in objects.items() if re.fullmatch(LAYER_PATH, path)}
    except (KeyError, TypeError, ValueError, IndexError, RecursionError, OSError) as error:
        raise ConversionError(
            f"{folder / METADATA} has no model of layers (Sequential or Functional) in it: save the model as .keras "
            f"({type(error).__name__})"
        ) from error
    return Layers(config, kept)


def _placed(config: Any) -> Any:
    """Say of Keras' own layers that they are its own: inside of others, it does not look for them there."""
    import keras

    if isinstance(config, list):
        return [_placed(item) for item in config]
    if not isinstance(config, dict):
        return config
    known = hasattr(keras.layers, str(config.get("class_name")))
    own = {"module": "keras.layers", "registered_name": None} if known else {}
    return {**{key: _placed(value) for key, value in config.items()}, **own}


def _objects(content: bytes) -> Iterator[dict[int, bytes]]:
    """Yield the objects of SavedMetadata: field 1, again and again."""
    return (dict(_fields(body)) for number, body in _fields(content) if number == 1)


def _fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the fields of a protobuf message that have a length (wire type 2)."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        if key & 7 == 0:
            _, place = _varint(content, place)
        elif key & 7 == 2:
            size, place = _varint(content, place)
            yield key >> 3, content[place : place + size]
            place += size
        else:
            raise ValueError(f"a field of wire type {key & 7}")


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def load_saved_model(folder: Path, layers: Layers) -> Any:
    """Build the model anew, with the weights in the folder; raise `ConversionError` where one is missing."""
    import keras

    kinds = {"Sequential": keras.Sequential, "Functional": keras.Model, "Model": keras.Model}
    model = kinds[layers.config["class_name"]].from_config(layers.config["config"])
    nodes, read = _checkpoint(folder)
    found, entries = {"root": model}, {"root": nodes[0]}
    left = {id(weight): weight.path for weight in model.weights if "seed_generator" not in weight.path}
    for path, name in sorted(layers.names.items()):
        parent, _, own = path.rpartition(".")
        found[path], entries[path] = found[parent].get_layer(name), _children(nodes, entries[parent])[own]
        for weight, key in _weights(found[path], nodes, entries[path]):
            weight.assign(read(key))
            left.pop(id(weight), None)
    if left:
        raise ConversionError(f"{folder} has no values for the weights {', '.join(left.values())}: save it as .keras")
    return model


def _checkpoint(folder: Path) -> tuple[Any, Any]:
    """Return the objects that the checkpoint of a folder holds, and what reads a value by its key."""
    import tensorflow as tf
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    graph = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    return graph.nodes, reader.get_tensor


def _children(nodes: Any, node: Any) -> dict[str, Any]:
    return {child.local_name: nodes[child.node_id] for child in node.children}


def _weights(item: Any, nodes: Any, node: Any) -> Iterator[tuple[Any, str]]:
    """Yield the variables of a layer, cell or list of cells, and the keys of their values."""
    for name, child in _children(nodes, node).items():
        if name.isdigit() and isinstance(item, list):
            yield from _weights(item[int(name)], nodes, child)
        elif child.attributes and hasattr(getattr(item, name, None), "assign"):
            yield getattr(item, name), child.attributes[0].checkpoint_key
        elif name in INSIDE and hasattr(item, name):
            yield from _weights(getattr(item, name), nodes, child)

"""TensorFlow itself, running a graph whose variables are constants."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ConversionError
from edgernn.quantize.onnx_files.memory import limited_memory
from edgernn.quiet import quiet_stderr
from edgernn.text import one_line

__all__ = ["FrozenGraph", "write_frozen"]

GRAPH, NAMES = "frozen.pb", "frozen.json"


def write_frozen(folder: Path, graph: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Write a `GraphDef` and which tensors its inputs and outputs are, for `FrozenGraph`."""
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    (folder / NAMES).write_text(json.dumps([inputs, outputs]), encoding="utf-8")


class FrozenGraph:
    """What `write_frozen` wrote, in TensorFlow."""

    def __init__(self, folder: Path) -> None:
        with quiet_stderr():
            import tensorflow as tf

            tf.zeros(1)  # devices are looked for, and talked about, only now
        graph = tf.compat.v1.GraphDef.FromString((folder / GRAPH).read_bytes())
        inputs, self._outputs = json.loads((folder / NAMES).read_text(encoding="utf-8"))
        wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
        tensor = wrapped.graph.get_tensor_by_name
        self._inputs = {name: tensor(place) for name, place in inputs.items()}
        self._run = wrapped.prune(
            list(self._inputs.values()), {name: tensor(place) for name, place in self._outputs.items()}
        )
        self._constant = tf.constant
        self.shapes = {name: tuple(value.shape.as_list()) for name, value in self._inputs.items()}
        """Of each input; None where any size will do."""

    def __call__(self, fed: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, Any]:
        """Run once; return what was asked for by name. Raises `ConversionError` where it cannot be run."""
        try:
            with limited_memory():
                arrays = [self._constant(fed[name], value.dtype) for name, value in self._inputs.items()]
                found = self._run(*arrays)
                return {name: np.asarray(found[name]) for name in names}
        except Exception as error:  # whatever TensorFlow says, at length
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in fed.items())
            raise ConversionError(f"TensorFlow cannot run the graph on {shapes}: {one_line(error, 200)}") from error

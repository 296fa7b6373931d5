"""What is converted: a trained model and what is known about it, whatever framework it is from."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.arrays import read_arrays
from edgernn.errors import DataError
from edgernn.files import read_file
from edgernn.frontend import LogMel
from edgernn.quantize.bounds import EXACT, Bounds
from edgernn.quantize.contexts import Asked
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.keras_file import load_keras
from edgernn.quantize.keras_legacy import as_float32
from edgernn.quantize.model_path import check_model, is_graph, is_onnx, keras_file_of
from edgernn.quantize.onnx_choices import OnnxChoices
from edgernn.quantize.oracle import KerasOracle, Oracle
from edgernn.quantize.streaming import StepGraph, stream
from edgernn.quantize.trace import functional
from edgernn.spec import Reader

__all__ = ["KerasSource", "Source", "load_source", "source_of"]

MOST_FACTS = 64 * 2**20  # bytes


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A model over whole sequences, and what its training run says of it."""

    path: Path
    sha256: str
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`run.json` of a training run: labels, front end, decoder, accuracy, data."""
    calibration: Path | None = None
    remarks: tuple[str, ...] = ()
    """What is to be said of how the model is read."""
    dev: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None
    """Frames `(clips, frames, features)` and classes `(clips,)` that training did not learn from."""

    @abstractmethod
    def graph(self) -> ir.Model:
        """Return the sequence graph: inputs `(batch, time, features...)`, the first two symbolic.

        Raises `UnsupportedLayerError` or `ConversionError` naming what cannot be expressed in it.
        """

    def step(self, frames_per_step: int | None = None, batch: int = 1, bounds: Bounds = EXACT) -> StepGraph:
        """Return the step graph; see `stream`."""
        return stream(self.graph(), frames_per_step, batch, bounds)

    @abstractmethod
    def oracle(self) -> Oracle:
        """Return what runs the model itself, not the graph, on whole sequences."""


@dataclass(frozen=True, kw_only=True)
class KerasSource(Source):
    """A Keras model."""

    model: Any
    contexts: Asked = field(default_factory=dict)
    """Inputs that are said to be contexts, beside those that can be told."""

    def graph(self) -> ir.Model:
        """Emit the layers one by one; see `from_keras`."""
        return from_keras(self.model, self.contexts)

    def oracle(self) -> Oracle:
        """Return Keras itself."""
        return KerasOracle(self.model, self.contexts)


def load_source(path: Path, choices: OnnxChoices | None = None, contexts: Asked | None = None) -> Source:
    """Load a Keras model (`.keras`, `.h5`, or the folder of a SavedModel), a training run's folder, or a `.onnx` file.

    Keras files are loaded in safe mode: no code in them is run. A SavedModel without layers is a graph, which is run
    where each of its operators is on a list of harmless ones. `contexts` says which inputs of a Keras model have no
    time, where that cannot be told. Raises `ConversionError` for a file that is not a model, `UsageError` for a path
    that is none of these.
    """
    check_model(path)
    if is_onnx(path):
        from edgernn.quantize.onnx_source import load_onnx

        return load_onnx(path, choices or OnnxChoices(), apart=True)
    if is_graph(path):
        from edgernn.quantize.saved_graphs.source import load_saved_graph

        source = load_saved_graph(path, choices or OnnxChoices())
        return replace(source, path=path, sha256=_digest(path), name=path.name)
    file = keras_file_of(path)
    folder = path if file != path else None
    facts = _facts(folder / "run.json") if folder else {}
    calibration = folder / "calibration.npz" if folder else None
    model, remarks = _computed_in_float32(load_keras(file))
    return KerasSource(
        model=model,
        remarks=remarks,
        path=file,
        sha256=_digest(file),
        name=str(facts.get("name") or file.stem),
        facts=facts,
        calibration=calibration if calibration and calibration.is_file() else None,
        dev=_dev(folder / "dev.npz") if folder else None,
        contexts=contexts or {},
    )


def source_of(model: Any, name: str | None = None, inputs: Any = None, contexts: Asked | None = None) -> Source:
    """Return a Keras model in hand as a source: the way for layers and models of one's own, whose code no file brings.

    The `call` of a subclassed model must be written with Keras' layers and the functions of keras.ops; it is traced on
    `inputs` (a keras.Input, or a list or dict of them) or else on frames like those that it was first called on.
    `contexts` is as in `load_source`. Raises `ConversionError` where it was never called, `UnsupportedLayerError` where
    it cannot be traced.

    >>> import keras
    >>> source_of(keras.Sequential([keras.Input((None, 4)), keras.layers.GRU(3)]), "small").name
    'small'
    """
    graph, remarks = _computed_in_float32(functional(model, inputs))
    digest = hashlib.sha256()
    for weight in graph.weights:
        digest.update(f"{weight.path} {weight.shape}".encode() + np.asarray(weight).tobytes())
    chosen = name or str(model.name)
    return KerasSource(
        model=graph,
        remarks=remarks,
        path=Path(chosen),
        sha256=digest.hexdigest(),
        name=chosen,
        contexts=contexts or {},
    )


def _computed_in_float32(model: Any) -> tuple[Any, tuple[str, ...]]:
    if not hasattr(model, "_flatten_layers"):
        return model, ()
    plain = as_float32(model)
    said = "its layers compute in half precision (mixed_float16); here, in float32, as its weights are"
    return plain, () if plain is model else (said,)


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files in a folder in the order of their names."""
    digest = hashlib.sha256()
    for part in [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file()):
        digest.update(part.read_bytes())
    return digest.hexdigest()


def _facts(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        facts = json.loads(read_file(path, MOST_FACTS))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(facts, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(facts).__name__}")
    read = Reader(facts, f"{path}: ")
    if read.has("labels"):
        labels = read.array("labels")
        for label in labels:
            labels.text(label)
    if read.has("front_end"):
        LogMel.from_dict(read.section("front_end").values)
    return facts


def _dev(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    if not path.is_file():
        return None
    arrays = read_arrays(path)
    shapes = {name: array.shape for name, array in arrays.items()}
    if not {"x", "y"} <= set(shapes) or len(shapes["x"]) != 3 or shapes["y"] != shapes["x"][:1] or 0 in shapes["x"]:
        raise DataError(f"{path}: expected arrays x (clips, frames, features) and y (clips,), found {shapes}")
    return arrays["x"].astype(np.float32), arrays["y"].astype(np.int64)

"""A SavedModel without layers as a source: its graph in ONNX, and TensorFlow running that graph as the truth."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ConversionError, EdgeRNNError, MissingDependencyError
from edgernn.quantize.child import last_line, run_child
from edgernn.quantize.onnx_choices import OnnxChoices
from edgernn.quantize.onnx_source import OnnxSource, OnnxStepSource, load_onnx
from edgernn.quantize.oracle import Oracle
from edgernn.quantize.saved_graphs.freeze import MODEL
from edgernn.quantize.saved_graphs.run import FrozenGraph
from edgernn.quantize.saved_graphs.served import read_served

__all__ = ["OneLength", "load_saved_graph"]

PATIENCE_S = 300.0
CLOSE = 1e-4  # of the output's standard deviation, where that is above one: as float32 is proven


def load_saved_graph(folder: Path, choices: OnnxChoices) -> OnnxSource | OnnxStepSource:
    """Load the graph that a SavedModel serves, in which every operator must be harmless; see `read_served`.

    It is taken apart in a process of its own first. Raises `MissingDependencyError` without tf2onnx, `ConversionError`
    for a folder that is damaged, and what `load_onnx` raises.
    """
    if find_spec("tf2onnx") is None:
        raise MissingDependencyError("a SavedModel without layers (of model.export)", "tf2onnx", "savedmodel")
    read_served(folder)
    with tempfile.TemporaryDirectory() as place:
        target = Path(place)
        _freeze_apart(folder, target)
        graph = FrozenGraph(target)
        try:
            source = load_onnx(target / MODEL, _with_time(graph, choices), apart=True)
        except EdgeRNNError as error:
            raise type(error)(str(error).replace(str(target / MODEL), str(folder))) from error
        return _proven_by(graph, source)


def _freeze_apart(folder: Path, target: Path) -> None:
    try:
        result = run_child("edgernn.quantize.saved_graphs.freeze", [str(folder), str(target)], PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise ConversionError(f"{folder} was tried, and stopped: it did not end within {PATIENCE_S:g} s") from None
    if result.returncode < 0:
        raise ConversionError(
            f"{folder} was tried in a process of its own, and crashed it (signal {-result.returncode}): it is damaged, "
            "means harm, or meets a defect of TensorFlow; export the model anew"
        )
    if result.returncode != 0:
        raise ConversionError(f"{folder} cannot be brought to ONNX: {_said(folder, result.stderr)}")


def _said(folder: Path, errors: str) -> str:
    return last_line(errors).removeprefix("error: ").removeprefix(f"{folder}: ")


def _with_time(graph: FrozenGraph, choices: OnnxChoices) -> OnnxChoices:
    """Say that the axis behind the batch is time, as in Keras, where it is the only other open one."""
    open_axes = {
        name: [axis for axis, size in enumerate(shape) if size is None] for name, shape in graph.shapes.items()
    }
    known = {name: 1 for name, axes in open_axes.items() if axes in ([1], [0, 1])}
    return replace(choices, time_axes={**known, **choices.time_axes})


def _proven_by(graph: FrozenGraph, source: OnnxSource | OnnxStepSource) -> OnnxSource | OnnxStepSource:
    """Let TensorFlow be the truth for a source."""
    if isinstance(source, OnnxStepSource):
        return replace(source, truth=source.stepped.oracle.run_by(graph))
    sequence = source.sequence
    exact = sequence.oracle.run_by(graph)
    axes = {name: layout.time for name, layout in sequence.layouts.items() if layout.time is not None}
    length = next((graph.shapes[name][axis] for name, axis in axes.items() if graph.shapes[name][axis]), None)
    if length is None:
        return replace(source, truth=exact)
    said = (
        f"the graph takes {length} frames, no more and no fewer: so many are compared with TensorFlow, and longer "
        "streams with its ONNX form, the length opened"
    )
    return replace(source, truth=OneLength(sequence.oracle, exact, length), remarks=(*source.remarks, said))


class OneLength(Oracle):
    """A form of a model for any length, compared with the model each time, which has one."""

    def __init__(self, opened: Oracle, exact: Oracle, length: int) -> None:
        self._opened, self._exact, self._length = opened, exact, length

    def batch(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Run the form; raise `ConversionError` where it is not what the model is, on as many frames as that takes."""
        places = np.arange(self._length)
        cut = [np.take(array, places, axis=1, mode="wrap") for array in frames]
        for found, wanted in zip(self._opened.batch(cut), self._exact.batch(cut), strict=True):
            error = float(np.abs(found - wanted).max()) / max(float(wanted.std()), 1.0)
            if not error <= CLOSE:  # NaN too
                raise ConversionError(
                    f"with its length opened, the graph gives something else than TensorFlow at its own length of "
                    f"{self._length} frames (error {error:.2g} of the standard deviation): export the model anew, with "
                    "keras.Input((None, ...))"
                )
        return self._opened.batch(frames)

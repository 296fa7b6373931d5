"""Whether a path can be that of a model: told by its name and kind, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from edgernn.errors import UsageError
from edgernn.files import check_there
from edgernn.quantize.keras_file import HDF5
from edgernn.quantize.saved_model import has_layers, is_saved_model

__all__ = ["check_model", "is_graph", "is_onnx", "keras_file_of"]

KINDS = "a .keras, .h5 or .onnx file, or the folder of a SavedModel or of a training run (with model.keras in it)"
EXPORTED = "; export a PyTorch model with torch.onnx.export, and convert a TFLite file's source"


def check_model(path: Path) -> None:
    """Raise `UsageError` for what is not there, or is none of the kinds that can be loaded."""
    check_there(path, KINDS)
    file = keras_file_of(path)
    if not is_onnx(path) and not is_saved_model(file) and not (file.is_file() and file.suffix in (".keras", *HDF5)):
        raise UsageError(f"{path}: expected {KINDS}{EXPORTED if path.suffix in ('.pt', '.pth', '.tflite') else ''}")


def is_onnx(path: Path) -> bool:
    """Tell whether a path is that of an ONNX file."""
    return path.is_file() and path.suffix == ".onnx"


def is_graph(path: Path) -> bool:
    """Tell whether a path is that of a graph: of an ONNX file, or of a SavedModel without layers."""
    return is_onnx(path) or (is_saved_model(path) and not has_layers(path))


def keras_file_of(path: Path) -> Path:
    """Return what Keras is to load: in the folder of a training run, its model.keras."""
    return path / "model.keras" if path.is_dir() and not is_saved_model(path) else path

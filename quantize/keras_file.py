"""Keras files, loaded without running code that is in them, and without believing what they claim."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgernn.errors import ConversionError, UnsupportedLayerError
from edgernn.files import check_file
from edgernn.quantize.keras_legacy import check_names, modern_hdf5, read_hdf5_config
from edgernn.quantize.saved_model import is_saved_model, load_saved_model, read_layers
from edgernn.quiet import quiet_stderr
from edgernn.text import one_line

__all__ = ["HDF5", "load_keras"]

HDF5 = (".h5", ".hdf5")

RATIO = 100  # Keras stores its weights as they are; what unpacks to more than this many times its size is a bomb
LEAST_BOMB = 64 * 2**20  # bytes
SIZES = ("filters", "input_dim", "key_dim", "num_heads", "output_dim", "units", "value_dim")
"""Settings of layers that have at least one weight for each."""


def load_keras(file: Path) -> Any:
    """Load a `.keras` file, a legacy HDF5 file or the folder of a SavedModel, in safe mode, for inference.

    Raises `ConversionError` for a file that is no model, or one whose weights are NaN or infinite, and
    `UnsupportedLayerError` for a layer that brings code of its own.
    """
    config, load = _reader(file)
    _check_sizes(file, config)
    with quiet_stderr():
        import keras

        keras.ops.zeros(1)  # devices are looked for, and talked about, only now

    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = load()
        _raise_lacking(said)
    except Exception as error:  # Keras raises whatever its reader met: zip, JSON, HDF5, a layer's own errors
        foreign = next((_name(item) for item in _objects(config) if _is_foreign(item)), None)
        if foreign:
            raise UnsupportedLayerError(
                f"{file}: {foreign}: it holds code that is not part of Keras, which no file may bring; build it from "
                "layers of Keras, or convert it in Python, where it is at hand: edgernn.quantize.source_of"
            ) from error
        raise _unreadable(file, error) from error
    for weight in getattr(model, "weights", ()):
        values = np.asarray(weight)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ConversionError(f"{file}: the weight {weight.path} has NaN or infinity in it: train the model again")
    return model


def _reader(file: Path) -> tuple[Any, Callable[[], Any]]:
    """Return the configuration in a file, and what loads the model of it once that has been looked at."""
    if is_saved_model(file):
        layers = read_layers(file)
        return layers.config, lambda: load_saved_model(file, layers)
    if zipfile.is_zipfile(_regular(file)):
        return _config(file), lambda: _load(file)
    if file.suffix in HDF5:
        config = read_hdf5_config(file)
        return config, lambda: _load_hdf5(file, config)
    raise ConversionError(f"{file} cannot be loaded as a Keras model: it is no zip archive; save the model again")


def _load(file: Path) -> Any:
    import keras

    return keras.models.load_model(file, compile=False, safe_mode=True)


def _load_hdf5(file: Path, config: Any) -> Any:
    if any(_is_foreign(item) and not _is_registered(item) for item in _objects(config)):
        raise ValueError("it brings code")  # before Keras reads it: what that calls safe depends on the format
    with modern_hdf5(file, config) as readable:
        model = _load(readable)
    check_names(file, model)
    return model


def _raise_lacking(said: list[warnings.WarningMessage]) -> None:
    """Raise where Keras only warned that it had no weights for a layer: it goes on with random ones."""
    for item in said:
        if "freshly" in str(item.message) or "not loaded" in str(item.message):
            raise ValueError(item.message)


def _regular(file: Path) -> Path:
    try:
        check_file(file)
    except OSError as error:
        raise ConversionError(f"{file} cannot be loaded as a Keras model: {error.strerror}") from error
    return file


def _unreadable(file: Path, error: Exception) -> ConversionError:
    return ConversionError(f"{file} cannot be loaded as a Keras model: {one_line(error)}")


def _config(file: Path) -> Any:
    """Return the configuration in a `.keras` archive, after a look at what all of it would unpack to."""
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked, packed = sum(item.file_size for item in archive.infolist()), file.stat().st_size
            if unpacked > max(LEAST_BOMB, RATIO * packed):
                raise ValueError(f"its {packed} bytes would unpack to {unpacked}")
            return json.loads(archive.read("config.json"))
    except Exception as error:  # an archive may be broken anywhere, or encrypted; its JSON too deep
        raise _unreadable(file, error) from error


def _check_sizes(file: Path, config: Any) -> None:
    """Refuse layers for which the file is too small: Keras would make room for all their weights, and fill it."""
    parts = [file] if file.is_file() else [part for part in file.rglob("*") if part.is_file()]
    most = 2 * sum(part.stat().st_size for part in parts)  # at four bits a weight
    for item in _objects(config):
        for key in SIZES:
            size = item["config"].get(key) if isinstance(item.get("config"), dict) else None
            if isinstance(size, int) and size > most:
                raise ConversionError(
                    f"{file} cannot be loaded as a Keras model: {_name(item)} should have {key} {size}, "
                    f"and the whole file has {most // 2} bytes"
                )


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every serialized object in a configuration: what names a class."""
    waiting = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict) and "class_name" in item:
            yield item
        waiting.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())


def _is_foreign(item: dict[str, Any]) -> bool:
    """Tell whether an object brings code of its own: Keras names neither it nor its place."""
    module = item.get("module")
    return item["class_name"] == "Lambda" or not (module is None or str(module).startswith(("keras", "builtins")))


def _is_registered(item: dict[str, Any]) -> bool:
    """Tell whether a class is at hand: its code is not from the file."""
    import keras

    return keras.saving.get_registered_object(str(item.get("registered_name"))) is not None


def _name(item: dict[str, Any]) -> str:
    config = item.get("config")
    return f"layer '{config.get('name') if isinstance(config, dict) else config}' ({item['class_name']})"

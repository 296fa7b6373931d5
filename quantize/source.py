"""What is converted: a trained model and what is known about it, from a `.keras` file or a training run."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ConversionError, DataError, UnsupportedLayerError, UsageError
from edgernn.quiet import quiet_stderr

__all__ = ["Source", "Streams", "load_source", "read_streams"]

Streams = list[tuple[NDArray[np.float32], ...]]
"""Each stream has an array for each input of the model, shape `(frames, features)`."""


@dataclass(frozen=True)
class Source:
    """A Keras model, and what its training run says of it."""

    model: Any
    path: Path
    sha256: str
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`run.json` of a training run: labels, front end, decoder, accuracy, data."""
    calibration: Path | None = None
    dev: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None
    """Frames `(clips, frames, features)` and classes `(clips,)` that training did not learn from."""


def load_source(path: Path) -> Source:
    """Load a `.keras` file or a training run's folder.

    Keras files are loaded in safe mode: no code in them is run. Raises `ConversionError` for a file that is not a
    model, `UsageError` for a path that is neither.
    """
    folder = path if path.is_dir() else None
    file = path / "model.keras" if folder else path
    if not file.is_file() or file.suffix != ".keras":
        raise UsageError(f"{path}: expected a .keras file or the folder of a training run (with model.keras in it)")
    facts = _facts(folder / "run.json") if folder else {}
    calibration = folder / "calibration.npz" if folder else None
    return Source(
        model=_load_model(file),
        path=file,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        name=str(facts.get("name") or file.stem),
        facts=facts,
        calibration=calibration if calibration and calibration.is_file() else None,
        dev=_dev(folder / "dev.npz") if folder else None,
    )


def _load_model(file: Path) -> Any:
    with quiet_stderr():
        import keras

        keras.ops.zeros(1)  # devices are looked for, and talked about, only now

    try:
        return keras.models.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its reader met: zip, JSON, HDF5, a layer's own errors
        foreign = _foreign_layer(file)
        if foreign:
            raise UnsupportedLayerError(
                f"{file}: {foreign}: it holds code that is not part of Keras; build it from layers of Keras"
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise ConversionError(f"{file} cannot be loaded as a Keras model: {reason}") from error


def _foreign_layer(file: Path) -> str | None:
    """Return which object in a model's file brings code of its own: Keras names neither it nor its place."""
    try:
        with zipfile.ZipFile(file) as archive:
            waiting = [json.loads(archive.read("config.json"))]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict) and "class_name" in item and "module" in item:
            config = item.get("config")
            name = config.get("name") if isinstance(config, dict) else config
            if item["class_name"] == "Lambda" or not str(item["module"]).startswith(("keras", "builtins")):
                return f"layer '{name}' ({item['class_name']})"
        waiting.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
    return None


def _facts(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(facts, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(facts).__name__}")
    return facts


def _dev(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    if not path.is_file():
        return None
    arrays = _load_arrays(path)
    shapes = {name: array.shape for name, array in arrays.items()}
    if not {"x", "y"} <= set(shapes) or len(shapes["x"]) != 3 or shapes["y"] != shapes["x"][:1] or 0 in shapes["x"]:
        raise DataError(f"{path}: expected arrays x (clips, frames, features) and y (clips,), found {shapes}")
    return arrays["x"].astype(np.float32), arrays["y"].astype(np.int64)


def read_streams(path: Path, widths: Sequence[int], front_end: Mapping[str, Any] | None) -> Streams:
    """Read example streams for inputs of these widths (features per frame).

    `path` is a `.npz` or `.npy` file of frames, `(frames, features)` or `(streams, frames, features)`, with one array
    for each input in order; or a recording or a folder of recordings, for a model that has a front end.
    """
    arrays = path.suffix in (".npz", ".npy")
    streams = _from_arrays(path, len(widths)) if arrays else _from_recordings(path, front_end)
    for index, stream in enumerate(streams):
        _check_stream(f"{path}, stream {index}", stream, widths)
    return streams


def _from_arrays(path: Path, inputs: int) -> Streams:
    arrays = list(_load_arrays(path).values())
    if len(arrays) != inputs:
        raise DataError(f"{path} has {len(arrays)} arrays; expected one for each input of the model: {inputs}")
    sets = [array[None] if array.ndim == 2 else array for array in arrays]
    if any(array.ndim != 3 for array in sets) or len({array.shape[:2] for array in sets}) > 1:
        raise DataError(
            f"{path}: expected (frames, features) or (streams, frames, features), as many streams and frames for each "
            f"input, found {', '.join(str(array.shape) for array in arrays)}"
        )
    if 0 in sets[0].shape:
        raise DataError(f"{path} has no frames in it")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity, and is found out as such
        return [tuple(array.astype(np.float32) for array in group) for group in zip(*sets, strict=True)]


def _load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            single = isinstance(loaded, np.ndarray)
            arrays = {"x": loaded} if single else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as NumPy arrays: {' '.join(str(error).split())}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise DataError(f"{path}: the array {name} is of type {array.dtype}; expected numbers")
    return arrays


def _from_recordings(path: Path, front_end: Mapping[str, Any] | None) -> Streams:
    from edgernn.clips import read_audio
    from edgernn.frontend import LogMel, log_mel

    if front_end is None:
        raise UsageError(f"{path}: the model has no audio front end; give the frames themselves, as .npz or .npy")
    if not path.exists():
        raise UsageError(f"{path} does not exist; expected .npz, .npy, a recording, or a folder of recordings")
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in (".wav", ".flac"))
    if not files:
        raise DataError(f"{path} has no .wav or .flac files in it")
    params = LogMel.from_dict(front_end)
    return [(log_mel(read_audio(file, params.rate_hz), params),) for file in files]


def _check_stream(where: str, stream: Sequence[NDArray[np.float32]], widths: Sequence[int]) -> None:
    for array, width in zip(stream, widths, strict=False):
        if array.ndim != 2 or array.shape[1] != width:
            raise DataError(f"{where}: expected frames of shape (frames, {width}), found {array.shape}")
        if not np.isfinite(array).all():
            raise DataError(f"{where}: frame {int(np.argwhere(~np.isfinite(array))[0][0])} has NaN or infinity in it")

"""Models that Keras 2 wrote, and models of mixed precision, as Keras 3 and a converter want them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgernn.errors import ConversionError

__all__ = ["as_float32", "check_names", "modern", "modern_hdf5", "read_hdf5_config"]


def modern(config: Any) -> Any:
    """Return the configuration that Keras 2 wrote as Keras 3 reads it.

    Keras 2 wrote tuples as objects, and for every recurrent layer `time_major`, which Keras 3 does not know (raises
    `ValueError` where that is set); and it counted the making of a nested model as the first call of it.

    >>> modern({"class_name": "GRU", "config": {"name": "g", "units": 3, "time_major": False}})
    {'class_name': 'GRU', 'config': {'name': 'g', 'units': 3}}
    """
    if isinstance(config, list):
        return [modern(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "__tuple__":
        return modern(config["items"])
    if config.get("time_major"):
        raise ValueError(f"'{config.get('name')}' has time before the batch (time_major=True): train it without")
    changed = {key: modern(value) for key, value in config.items() if key != "time_major"}
    return _counted_from_zero(changed) if "output_layers" in config else changed


def _counted_from_zero(graph: dict[str, Any]) -> dict[str, Any]:
    """Count the calls of nested models from zero; a call is referred to as `[layer, call, output, arguments]`."""
    nested = {layer["name"] for layer in graph["layers"] if "layers" in layer.get("config", {})}
    calls = [call for call in _calls([layer["inbound_nodes"] for layer in graph["layers"]]) if call[0] in nested]
    calls += [call for call in _calls(graph["output_layers"]) if call[0] in nested]
    first = {name: min(call[1] for call in calls if call[0] == name) for name in {call[0] for call in calls}}
    for call in calls:
        call[1] -= first[call[0]]
    return graph


def _calls(items: Any) -> Iterator[list[Any]]:
    """Yield every `[layer, call, output, ...]` in nested lists."""
    if isinstance(items, list):
        if len(items) >= 3 and isinstance(items[0], str) and isinstance(items[1], int):
            yield items
        for item in items:
            yield from _calls(item)


def read_hdf5_config(file: Path) -> Any:
    """Return the configuration of the model in a legacy HDF5 file; raise `ConversionError` where there is none."""
    import h5py

    try:
        with h5py.File(file, "r") as stored:
            found = stored.attrs.get("model_config")
            return json.loads(found) if found is not None else _lacking(file)
    except (OSError, ValueError, RuntimeError, RecursionError) as error:
        raise ConversionError(f"{file} cannot be read as a Keras HDF5 file: {error}") from error


def _lacking(file: Path) -> None:
    raise ConversionError(f"{file} has weights and no model (no model_config): save the whole model, as .keras")


@contextmanager
def modern_hdf5(file: Path, config: Any) -> Iterator[Path]:
    """Give a legacy HDF5 file whose configuration Keras 3 reads: this one, or a copy of it for the time being."""
    import h5py

    changed = modern(config)
    if changed == config:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="edgernn-") as folder:
        copy = Path(shutil.copy(file, folder))
        with h5py.File(copy, "r+") as stored:
            stored.attrs["model_config"] = json.dumps(changed)
        yield copy


def check_names(file: Path, model: Any) -> None:
    """Check that each layer has the weights that the HDF5 file has under its name: Keras goes by their order.

    Raises `ConversionError` naming the layer.
    """
    import h5py

    with h5py.File(file, "r") as stored:
        group = stored["model_weights"]
        for layer in model.layers:
            if layer.name not in group:
                continue
            names = list(group[layer.name].attrs.get("weight_names", []))
            there = sorted(_print(np.asarray(group[layer.name][name])) for name in names)
            if there != sorted(_print(np.asarray(weight)) for weight in layer.weights if "seed" not in weight.path):
                raise ConversionError(
                    f"{file}: the layer '{layer.name}' got weights that the file has for another one; save the model "
                    "as .keras with the Keras that it was trained with"
                )


def _print(array: Any) -> tuple[tuple[int, ...], bytes]:
    return array.shape, array.astype(np.float32).tobytes()


def as_float32(model: Any) -> Any:
    """Return the model with every layer computing in float32: itself, where all of them do already.

    A policy such as mixed_float16 is for training: the weights are float32 in any case.
    """
    if all(getattr(layer, "compute_dtype", None) in (None, "float32") for layer in model._flatten_layers()):
        return model
    rebuilt = type(model).from_config(_with_policy(model.get_config()))
    rebuilt.set_weights(model.get_weights())
    return rebuilt


def _with_policy(config: Any) -> Any:
    """Replace policies of mixed precision; plain dtypes, such as that of an input, stay."""
    if isinstance(config, list | tuple):
        return type(config)(_with_policy(item) for item in config)
    if not isinstance(config, dict):
        return config
    policy = config.get("config")
    if str(config.get("class_name", "")).endswith("Policy") and isinstance(policy, dict):
        return "float32" if str(policy.get("name")).startswith("mixed_") else config
    return {key: _mixed(value) if key == "dtype" else _with_policy(value) for key, value in config.items()}


def _mixed(dtype: Any) -> Any:
    return "float32" if isinstance(dtype, str) and dtype.startswith("mixed_") else _with_policy(dtype)

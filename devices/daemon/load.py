"""A configuration read: a TOML file with the environment and `--set` over it, checked as a whole.

`EDGERNN_PIPELINE_HALL_SOURCE=mic:` in the environment is `pipeline.hall.source`: the keys in capitals, joined by `_`,
which also stands for every other sign in a name. A value is read as TOML, or else is a text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from edgernn.devices.daemon.config import (
    NAMED,
    SECTIONS,
    Config,
    PipelineConfig,
    SinkConfig,
    SourceConfig,
    StoreConfig,
    WakeConfig,
    read_source,
)
from edgernn.devices.daemon.fields import Problems, fill, readers, unknown
from edgernn.devices.daemon.layers import Layers, read_file_layer, value_of
from edgernn.devices.secret import Secret
from edgernn.errors import UsageError
from edgernn.text import without_passwords

__all__ = ["load"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

Part = TypeVar("Part", SourceConfig, SinkConfig)


def load(
    file: str | os.PathLike[str], environment: Mapping[str, str] | None = None, settings: Sequence[str] = ()
) -> Config:
    """Read a configuration; `settings` are `KEY=VALUE`, as `--set` has them.

    Raises `UsageError` with a line for each mistake, and the place of each.
    """
    layers = read_file_layer(Path(file))
    problems = Problems()
    _lay_environment(layers, os.environ if environment is None else environment, problems)
    for setting in settings:
        keys, equals, value = setting.partition("=")
        if not equals or not all(keys.split(".")):
            raise UsageError(f"--set takes KEY=VALUE, as in pipeline.hall.source=mic:, not '{setting}'")
        layers.put(tuple(keys.split(".")), _retyped(layers, tuple(keys.split(".")), value), f"--set {keys}")
    config = _config(layers, Path(file).absolute().parent, problems)
    problems.check()
    return config


def _retyped(layers: Layers, keys: tuple[str, ...], value: str) -> Any:
    """Return what a text stands for; `options` of a source that is a plain URI in the file make it a table."""
    if len(keys) > 1:
        table: Any = layers.values
        for name in keys[:-2]:
            table = table.get(name, {}) if isinstance(table, dict) else {}
        if isinstance(table, dict) and keys[-2] == "source" and isinstance(table.get("source"), str):
            table["source"] = {"uri": table["source"]}
    return value_of(value)


def _lay_environment(layers: Layers, environment: Mapping[str, str], problems: Problems) -> None:
    for name, value in sorted(environment.items()):
        parts = name.split("_")
        if parts[0] != "EDGERNN" or len(parts) < 2:
            continue
        head = parts[1].lower()
        if head in SECTIONS or head in NAMED or (len(parts) == 2 and head in readers(Config)):
            keys = _keys(layers, head, parts[2:])
            if keys is None:
                problems.add(name, f"no key of [{head}] is written like this")
            else:
                layers.put(keys, _retyped(layers, keys, value), name)


def _keys(layers: Layers, head: str, parts: Sequence[str]) -> tuple[str, ...] | None:
    """Return which value a variable of the environment is for."""
    if not parts:
        return (head,) if head not in {**SECTIONS, **NAMED} else None
    rest = "_".join(parts).lower()
    if head in SECTIONS:
        return (head, rest)
    table = layers.values.get(head, {})
    for name in sorted(table if isinstance(table, dict) else (), key=len, reverse=True):
        written = re.sub(r"[^a-z0-9]", "_", name.lower()) + "_"
        if rest.startswith(written):
            return (head, name, *_deeper(rest[len(written) :]))
    for known in sorted({*readers(NAMED[head]), "uri"}, key=len, reverse=True):  # one that the file does not name
        if rest.endswith(f"_{known}"):
            return (head, rest[: -len(known) - 1], known)
    return None


def _deeper(rest: str) -> tuple[str, ...]:
    for table in ("source", "threshold"):
        if rest.startswith(f"{table}_"):
            return table, rest[len(table) + 1 :]
    return (rest,)


def _config(layers: Layers, folder: Path, problems: Problems) -> Config:
    wanted = {name for name in SECTIONS if name in layers.values or name not in ("wake", "http")}
    sections: dict[str, Any] = {
        name: fill(kind, layers, (name,), problems) if name in wanted else None for name, kind in SECTIONS.items()
    }
    sections["store"] = _keys_from(folder, sections["store"])
    sinks = {name: _beside(folder, _sink(layers, name, problems)) for name in _tables(layers, "sink", problems)}
    pipelines = {}
    for name in _tables(layers, "pipeline", problems):
        pipeline = fill(PipelineConfig, layers, ("pipeline", name), problems, name=name)
        place = layers.place(("pipeline", name, "sinks"))
        names = [_sink_of(uri, sinks, place, problems) for uri in pipeline.sinks]
        artifact = pipeline.artifact and folder / pipeline.artifact
        source = pipeline.source and _beside(folder, pipeline.source)  # None where something is wrong with it
        pipelines[name] = replace(pipeline, artifact=artifact, source=source, sinks=tuple(dict.fromkeys(names)))
    if "wake" in wanted:
        sections["wake"] = _wake(sections["wake"], sinks, folder, layers.place(("wake", "sinks")), problems)
    if not pipelines and "wake" not in wanted:
        problems.add(layers.origin, "there is no pipeline: expected a table [pipeline.NAME] with artifact and source")
    top = {name: value for name, value in layers.values.items() if name not in {**SECTIONS, **NAMED}}
    rest = Layers(top, layers.places, layers.origin)
    for name in set(top) - set(readers(Config)):
        problems.add(layers.place((name,)), unknown((name,), dict.fromkeys([*readers(Config), *SECTIONS, *NAMED])))
        del top[name]
    return fill(Config, rest, (), problems, pipelines=pipelines, sinks=sinks, places=layers, **sections)


def _beside(folder: Path, part: Part) -> Part:
    """Return a source or a sink whose files of secrets are where the configuration's folder has them."""
    options = {
        name: Secret("file", str(folder / Path(value.where).expanduser()))
        if isinstance(value, Secret) and value.kind == "file"
        else value
        for name, value in part.options.items()
    }
    return replace(part, options=options)


def _wake(wake: WakeConfig, sinks: dict[str, SinkConfig], folder: Path, place: str, problems: Problems) -> WakeConfig:
    names = [_sink_of(uri, sinks, place, problems) for uri in wake.sinks]
    artifacts = tuple(folder / artifact for artifact in wake.artifact or ())
    return replace(wake, artifact=artifacts, sinks=tuple(dict.fromkeys(names)))


def _keys_from(folder: Path, store: StoreConfig) -> StoreConfig:
    """Return the section with files of keys where the configuration's folder has them."""
    keys = store.trusted_keys or ()
    found = (key if key.startswith("ssh-") else str(folder / Path(key).expanduser()) for key in keys)
    return replace(store, trusted_keys=tuple(found))


def _tables(layers: Layers, head: str, problems: Problems) -> Iterable[str]:
    tables = layers.values.get(head, {})
    if not isinstance(tables, dict):
        problems.add(layers.place((head,)), f"{head} must hold tables: [{head}.NAME]")
        return ()
    for name in [name for name in tables if not NAME.fullmatch(name)]:
        problems.add(layers.place((head, name)), f"{head}.{name}: a name has letters, digits, '_', '.' and '-' only")
    return tables


def _sink(layers: Layers, name: str, problems: Problems) -> SinkConfig:
    keys = ("sink", name)
    table = layers.values["sink"][name]
    try:
        given = read_source(table)
    except UsageError as error:
        problems.add(layers.place(keys), f"{'.'.join(keys)} {error}")
        given = SourceConfig("text:")
    return SinkConfig(name, given.uri, given.options)


def _sink_of(uri: str, sinks: dict[str, SinkConfig], place: str, problems: Problems) -> str:
    """Return the name of a pipeline's sink; one that stands there as a URI joins the others."""
    if uri in sinks:
        return uri
    if ":" not in uri and uri != "-":
        problems.add(place, f"there is no sink '{uri}'; expected a URI, or one of: {', '.join(sinks) or 'none'}")
        return uri
    name = _without_password(uri)
    if sinks.setdefault(name, SinkConfig(name, uri)).uri != uri:
        problems.add(place, f"two sinks {name} that differ by a password only: give each a table [sink.NAME]")
    return name


def _without_password(uri: str) -> str:
    """Return a URI that can be shown.

    >>> _without_password("mqtt://anna:secret@broker:1883/hall")
    'mqtt://broker:1883/hall'
    """
    return without_passwords(uri).replace("://***@", "://")

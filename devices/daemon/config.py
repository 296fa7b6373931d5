"""The configuration of a daemon: frozen dataclasses, read from TOML with the environment and `--set` over it.

    state = "/var/lib/edgernn"

    [pipeline.hall]
    artifact = "keyword"                 # beside this file
    source = "mic:USB"
    sinks = ["text:", "broker"]
    threshold = { left = 0.8 }

    [sink.broker]
    uri = "mqtts://broker.local/hall"
    password = { credential = "mqtt" }

`EDGERNN_PIPELINE_HALL_SOURCE=mic:` in the environment is `pipeline.hall.source`: the keys in capitals, joined by `_`,
which also stands for every other sign in a name. A value is read as TOML, or else is a text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from edgernn.devices.daemon.fields import (
    Address,
    Problems,
    address,
    choice,
    fill,
    flag,
    nbytes,
    number,
    option,
    path,
    paths,
    readers,
    tcp,
    text,
    texts,
    unknown,
    whole,
)
from edgernn.devices.daemon.layers import Layers, read_file_layer, value_of
from edgernn.devices.decoders import DecoderSpec, read_decoder
from edgernn.devices.runner import CHOICES, RUNTIMES
from edgernn.devices.secret import Secret
from edgernn.devices.sources.pieces import CHUNK_MS
from edgernn.errors import UsageError
from edgernn.sensor_stream import HOLD_FRAMES
from edgernn.text import without_passwords

__all__ = [
    "Config",
    "HttpConfig",
    "PipelineConfig",
    "QueueConfig",
    "SinkConfig",
    "SourceConfig",
    "StoreConfig",
    "WakeConfig",
    "load",
]

LOOPBACK = Address("127.0.0.1", 8080)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class SourceConfig:
    """Where samples come from."""

    uri: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else stood in the table: plain values, and `Secret`s."""


@dataclass(frozen=True)
class SinkConfig:
    """Where events go; see `SourceConfig`."""

    name: str
    """Its key in `[sink]`; for one that stands in a pipeline itself, the URI without a password."""
    uri: str
    options: Mapping[str, Any] = field(default_factory=dict)


Part = TypeVar("Part", SourceConfig, SinkConfig)


def _source(value: Any) -> SourceConfig:
    if isinstance(value, str):
        return SourceConfig(text(value))
    if not isinstance(value, Mapping) or "uri" not in value:
        raise UsageError('must be a URI, or a table like { uri = "…", password = { file = "…" } }')
    return SourceConfig(text(value["uri"]), _options(value))


def _options(table: Mapping[str, Any]) -> Mapping[str, Any]:
    options = {}
    for name, value in table.items():
        if name != "uri":
            try:
                options[name] = option(value)
            except UsageError as error:
                raise UsageError(f"has {name}, which {error}") from error
    return options


def _threshold(value: Any) -> float | Mapping[str, float]:
    if not isinstance(value, Mapping):
        return float(number(-1e30, 1e30)(value))  # an alarm may have any; the decoder says what it takes
    return {word: number(0, 1, above=True)(score) for word, score in value.items()}


def _decoder(value: Any) -> DecoderSpec:
    if not isinstance(value, (str, Mapping)):
        raise UsageError("must be a text such as 'alarm:distance?threshold=3', or a table with its kind")
    return read_decoder(value)


@dataclass(frozen=True)
class PipelineConfig:
    """One source through one artifact to sinks."""

    name: str
    artifact: Annotated[Path, path]
    """Relative to the configuration's folder."""
    source: Annotated[SourceConfig, _source]
    sinks: Annotated[tuple[str, ...], texts] = ("text:",)
    """Names of `Config.sinks`."""
    runtime: Annotated[str | None, choice(*RUNTIMES)] = None
    threads: Annotated[int, whole(1, 64)] = 1
    decoder: Annotated[DecoderSpec | None, _decoder] = None
    """Instead of the artifact's."""
    hold_frames: Annotated[int, whole(0, 1_000_000)] = HOLD_FRAMES
    """How many lost frames of a sensor are bridged by the last one."""
    threshold: Annotated[float | Mapping[str, float] | None, _threshold] = None
    """Instead of the artifact's: for all words, or for some."""
    smoothing_ms: Annotated[float | None, number(0)] = None
    refractory_ms: Annotated[float | None, number(0)] = None
    ignore: Annotated[tuple[str, ...] | None, texts] = None
    fast: Annotated[bool, flag] = False
    """A recording is taken as quickly as possible, not at its own pace."""
    chunk_ms: Annotated[float, number(1, 1000)] = CHUNK_MS
    """How much of a live source is heard at once, at most: a longer one costs less, and lets an event wait longer."""
    late_s: Annotated[float, number(0, above=True)] = 1.0
    """A chunk that waited longer is skipped."""
    stall_s: Annotated[float, number(0.1)] = 5.0
    """A source that gives nothing for so long is opened anew."""
    replay_s: Annotated[float, number(0, 60)] = 3.0
    """How much of the latest sound a new artifact is warmed up with."""
    provider: Annotated[str | None, choice(*CHOICES)] = None
    """On which ONNX Runtime computes; "auto": the fastest here."""


@dataclass(frozen=True)
class HttpConfig:
    """The page and the metrics."""

    listen: Annotated[Address, address] = LOOPBACK
    """Host and port; the port 0 is one that the system chooses."""
    names: Annotated[tuple[str, ...], texts] = ()
    """By which else a browser may call it, beside its addresses and the machine's own name."""


@dataclass(frozen=True)
class WakeConfig:
    """Wake words for others, over the Wyoming protocol."""

    artifact: Annotated[tuple[Path, ...], paths]
    """One or several, relative to the configuration's folder."""
    listen: Annotated[str, tcp] = "tcp://127.0.0.1:10400"
    """The port 0 is one that the system chooses."""
    words: Annotated[tuple[str, ...] | None, texts] = None
    """Which are offered; all of the artifacts, if none is named."""
    languages: Annotated[tuple[str, ...], texts] = ("en",)
    """Of the words."""
    sinks: Annotated[tuple[str, ...], texts] = ()
    """Where detections go beside the client."""
    most_clients: Annotated[int, whole(1, 1000)] = 16
    idle_s: Annotated[float, number(1)] = 300.0
    """A client that says nothing for so long is gone."""
    runtime: Annotated[str | None, choice(*RUNTIMES)] = None
    threads: Annotated[int, whole(1, 64)] = 1
    threshold: Annotated[float | Mapping[str, float] | None, _threshold] = None
    smoothing_ms: Annotated[float | None, number(0)] = None
    refractory_ms: Annotated[float | None, number(0)] = None
    provider: Annotated[str | None, choice(*CHOICES)] = None
    """On which ONNX Runtime computes; "auto": the fastest here."""
    announce: Annotated[bool, flag] = False
    """In the network by multicast DNS, so that Home Assistant finds it by itself."""


@dataclass(frozen=True)
class QueueConfig:
    """The events on disk that wait for their sinks."""

    most_events: Annotated[int, whole(1)] = 100_000
    most_bytes: Annotated[int, nbytes] = 64_000_000


@dataclass(frozen=True)
class StoreConfig:
    """Which artifacts are taken, and when."""

    trusted_keys: Annotated[tuple[str, ...], texts] = ()
    """Public keys, or files with one each; if there is any, an artifact must be signed by one of them."""
    watch_s: Annotated[float, number(0, 3600)] = 1.0
    """How often artifacts are looked at for having been replaced; 0: at a reload alone."""


def _state() -> Path:
    if "STATE_DIRECTORY" in os.environ:  # systemd's
        return Path(os.environ["STATE_DIRECTORY"].split(":")[0])
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "edgernn"


@dataclass(frozen=True)
class Config:
    """All of a daemon."""

    pipelines: Mapping[str, PipelineConfig]
    sinks: Mapping[str, SinkConfig]
    wake: WakeConfig | None
    """None unless there is a table `[wake]`."""
    http: HttpConfig | None
    """None unless there is a table `[http]`, or a value for it."""
    queue: QueueConfig
    store: StoreConfig
    places: Layers = field(repr=False, compare=False)
    """Where each value stands."""
    state: Annotated[Path | None, path] = None
    """Folder for what outlives the daemon; by default $STATE_DIRECTORY, or ~/.local/state/edgernn."""
    log: Annotated[str, choice("auto", "text", "json")] = "auto"
    """"auto": text on a terminal, JSON lines under systemd."""
    level: Annotated[str, choice("debug", "info", "warning", "error")] = "info"

    def place(self, *keys: str) -> str:
        """Return where a value stands, such as "edge.toml:12"; a sink that has no table stands in its pipeline."""
        if keys[0] == "sink" and keys not in self.places.places:
            users = [("pipeline", name) for name, one in self.pipelines.items() if keys[1] in one.sinks]
            keys = (*(users[0] if users else ("wake",)), "sinks")
        return self.places.place(keys)

    @property
    def folder(self) -> Path:
        """Folder for what outlives the daemon."""
        return self.state or _state()


SECTIONS: Mapping[str, type] = {"wake": WakeConfig, "http": HttpConfig, "queue": QueueConfig, "store": StoreConfig}
NAMED = {"pipeline": PipelineConfig, "sink": SinkConfig}


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
        given = _source(table)
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

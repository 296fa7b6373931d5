"""What the configuration of a daemon may say: a frozen dataclass for each of its tables.

    state = "/var/lib/edgernn"

    [pipeline.hall]
    artifact = "keyword"                 # beside this file
    source = "mic:USB"
    sinks = ["text:", "broker"]
    threshold = { left = 0.8 }

    [sink.broker]
    uri = "mqtts://broker.local/hall"
    password = { credential = "mqtt" }

How it is read, with the environment and `--set` over it: `edgernn.devices.daemon.load`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from edgernn.decode.keyword import LONGEST_SMOOTHING_MS
from edgernn.devices.daemon.fields import (
    Address,
    address,
    choice,
    flag,
    nbytes,
    number,
    option,
    path,
    paths,
    tcp,
    text,
    texts,
    whole,
)
from edgernn.devices.daemon.layers import Layers
from edgernn.devices.decoders import DecoderSpec, read_decoder
from edgernn.devices.runner import CHOICES, RUNTIMES
from edgernn.devices.sources.pieces import CHUNK_MS
from edgernn.errors import UsageError
from edgernn.sensor_stream import HOLD_FRAMES

__all__ = [
    "Config",
    "HttpConfig",
    "PipelineConfig",
    "QueueConfig",
    "SinkConfig",
    "SourceConfig",
    "StoreConfig",
    "WakeConfig",
    "read_source",
]

LOOPBACK = Address("127.0.0.1", 8080)


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


def read_source(value: Any) -> SourceConfig:
    """Return where samples come from; raise `UsageError` with the rest of a sentence."""
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
    source: Annotated[SourceConfig, read_source]
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
    smoothing_ms: Annotated[float | None, number(0, LONGEST_SMOOTHING_MS)] = None
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
    smoothing_ms: Annotated[float | None, number(0, LONGEST_SMOOTHING_MS)] = None
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

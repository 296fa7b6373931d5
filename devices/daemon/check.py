"""`edgernn serve --check`: what can be known about a configuration without starting."""

from __future__ import annotations

import contextlib

from edgernn.devices import sinks, sources
from edgernn.devices.daemon.config import Config, SinkConfig, SourceConfig
from edgernn.devices.daemon.prepare import prepare
from edgernn.devices.daemon.store import check_trusted, trusted_keys
from edgernn.devices.daemon.wake_words import WakeWords
from edgernn.devices.secret import Secret
from edgernn.errors import EdgeRNNError, FailureError, NotThereError, UsageError
from edgernn.text import table

__all__ = ["check", "check_places"]

ANY_HZ = 16000


def check(config: Config) -> str:
    """Open and verify every artifact, look for every source, read every secret; return a table for people.

    Raises `UsageError` with a line for each mistake.
    """
    rows, problems = [], []
    trusted = trusted_keys(config.store)
    for name, pipeline in config.pipelines.items():
        try:
            check_trusted(pipeline.artifact, trusted)
            prepared = prepare(pipeline)
            stream, runtime = prepared.stream, prepared.stream.runner.runtime
            rows.append([name, pipeline.source.uri, prepared.artifact.name, runtime, ", ".join(pipeline.sinks)])
            stream.runner.close()
            _check_source(pipeline.source, stream.rate_hz, stream.frame_shape)
        except EdgeRNNError as error:
            problems.append(f"pipeline {name}: {error}")
    if config.wake is not None:
        try:
            for artifact in config.wake.artifact:
                check_trusted(artifact, trusted)
            words = WakeWords(config.wake)
            for one in words.prepared:
                runtime = one.stream.runner.runtime
                rows.append(["wake", config.wake.listen, one.artifact.name, runtime, ", ".join(config.wake.sinks)])
            words.retire()
        except EdgeRNNError as error:
            problems.append(f"wake: {error}")
    for name, sink in config.sinks.items():
        try:
            _check_sink(sink)
        except EdgeRNNError as error:
            problems.append(f"sink {name}: {error}")
    if problems:
        raise UsageError("\n  ".join(problems))
    return table(["pipeline", "source", "artifact", "runtime", "sinks"], rows)


def check_places(config: Config) -> None:
    """Check what a start or a reload would stumble over; a source that is not there just now is waited for."""
    for sink in config.sinks.values():
        _check_sink(sink)
    for pipeline in config.pipelines.values():
        with contextlib.suppress(FailureError, NotThereError):
            _check_source(pipeline.source, ANY_HZ, None)


def _check_source(source: SourceConfig, rate_hz: float, shape: tuple[int, ...] | None) -> None:
    _read_secrets(source)
    sources.check_source(source.uri, rate_hz, source.options, shape)


def _check_sink(sink: SinkConfig) -> None:
    _read_secrets(sink)
    sinks.check_sink(sink.uri, sink.options)


def _read_secrets(part: SourceConfig | SinkConfig) -> None:
    for value in part.options.values():
        if isinstance(value, Secret):
            value.reveal()

"""An artifact made ready for a pipeline: opened, verified on this machine, joined to a stream."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from edgernn.artifact import MANIFEST, MOST_MANIFEST, Artifact
from edgernn.decode.keyword import KeywordSpec
from edgernn.devices import sources
from edgernn.devices.daemon.config import PipelineConfig
from edgernn.devices.decoders import DecoderSpec, decoder_spec_of, names_of, with_threshold
from edgernn.devices.pipeline import check_rate, open_stream
from edgernn.devices.runner import find_runtime, runtime_for, runtime_on
from edgernn.devices.verify import verify
from edgernn.errors import ArtifactError, EdgeRNNError, UsageError
from edgernn.event_stream import EventStream
from edgernn.files import check_there, read_file

__all__ = ["Prepared", "StreamKey", "mistakes_of", "prepare", "stream_key"]

_log = logging.getLogger(__name__)


class StreamKey(NamedTuple):
    """What decides which events a pipeline makes of its sound: equal for two streams that give the same ones."""

    artifact: Path
    digest: str
    """SHA-256 of the manifest, which has the digests of all other files."""
    runtime: str | None
    threads: int
    settings: tuple[object, ...]


@dataclass(frozen=True)
class Prepared:
    """A stream at its beginning."""

    config: PipelineConfig
    artifact: Artifact
    stream: EventStream
    names: tuple[str, ...]
    """The words or names that events may have."""
    key: StreamKey
    runtime: str
    """Its name, with the execution provider where one was asked for, as in "onnxruntime:cuda"."""


def prepare(config: PipelineConfig) -> Prepared:
    """Open all that a pipeline needs but its source; raises what is wrong with it."""
    key = stream_key(config)
    artifact = Artifact.open(config.artifact)
    decoder = _decoder(config.decoder or decoder_spec_of(artifact), config, artifact.labels)
    rate_hz = None
    if artifact.front_end is None:
        with mistakes_of("source"):
            rate_hz = check_rate(artifact, sources.frame_rate(config.source.uri, config.source.options))
    runtime = runtime_for(
        runtime_on(artifact, config.runtime, config.provider, config.threads), artifact.programs.get("step", {})
    )
    _verify(artifact, runtime)
    with mistakes_of("decoder" if config.decoder else ""):
        stream = open_stream(artifact, runtime, config.threads, decoder, rate_hz, config.hold_frames)
    return Prepared(config, artifact, stream, tuple(names_of(decoder, artifact)), key, runtime)


def stream_key(config: PipelineConfig) -> StreamKey:
    """Return the key of a configuration and the artifact as it is now; raise `NotThereError` if there is none."""
    check_there(config.artifact, "the folder of an artifact, as edgernn convert writes it")
    try:
        manifest = read_file(config.artifact / MANIFEST, MOST_MANIFEST)
    except OSError as error:
        raise ArtifactError(f"{config.artifact} is not an artifact: {MANIFEST}: {error.strerror}") from error
    settings = (config.threshold, config.smoothing_ms, config.refractory_ms, config.ignore)
    decoder = (config.decoder, *settings, config.hold_frames, config.provider)
    return StreamKey(config.artifact, hashlib.sha256(manifest).hexdigest(), config.runtime, config.threads, decoder)


def _verify(artifact: Artifact, runtime: str) -> None:
    kind = find_runtime(runtime).format
    if artifact.certificate:
        verify(artifact, runtime)
    else:
        _log.warning("%s has no certificate, so nothing proves its %s file on this machine", artifact.path, kind)


def _decoder(spec: DecoderSpec, config: PipelineConfig, labels: tuple[str, ...]) -> DecoderSpec:
    if config.threshold is not None:
        with mistakes_of("threshold"):
            spec = with_threshold(spec, config.threshold, labels)
    names = ("smoothing_ms", "refractory_ms", "ignore")
    changes: dict[str, Any] = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    only_words = sorted(set(changes) - {"refractory_ms"}, reverse=True)
    if only_words and not isinstance(spec, KeywordSpec):
        with mistakes_of(only_words[0]):
            raise UsageError(f"smoothing_ms and ignore are for words, and the decoder of {config.name} is an alarm")
    return replace(spec, **changes)


@contextlib.contextmanager
def mistakes_of(key: str) -> Iterator[None]:
    """Have an error say which key has the mistake, for whoever knows the line of it."""
    try:
        yield
    except EdgeRNNError as error:
        error.key = error.key or key
        raise

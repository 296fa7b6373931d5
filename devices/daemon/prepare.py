"""An artifact made ready for a pipeline: opened, verified on this machine, joined to a stream."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from edgernn.artifact import MANIFEST, MOST_MANIFEST, Artifact
from edgernn.decode.keyword import KeywordSpec
from edgernn.devices.daemon.config import PipelineConfig
from edgernn.devices.pipeline import keyword_spec_of, open_stream
from edgernn.devices.runner import RUNTIMES, runtime_for
from edgernn.devices.verify import verify
from edgernn.errors import ArtifactError
from edgernn.files import read_file
from edgernn.stream import Stream

__all__ = ["Prepared", "StreamKey", "prepare", "stream_key"]

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
    stream: Stream
    key: StreamKey


def prepare(config: PipelineConfig) -> Prepared:
    """Open all that a pipeline needs but its source; raises what is wrong with it."""
    key = stream_key(config)
    artifact = Artifact.open(config.artifact)
    decoder = _decoder(keyword_spec_of(artifact), config, artifact.labels)
    runtime = runtime_for(config.runtime, artifact.programs.get("step", {}))
    _verify(artifact, runtime)
    stream = open_stream(artifact, runtime, config.threads, decoder)
    return Prepared(config, artifact, stream, key)


def stream_key(config: PipelineConfig) -> StreamKey:
    """Return the key of a configuration and the artifact as it is now; raise `ArtifactError` if there is none."""
    try:
        manifest = read_file(config.artifact / MANIFEST, MOST_MANIFEST)
    except OSError as error:
        raise ArtifactError(f"{config.artifact} is not an artifact: {MANIFEST}: {error.strerror}") from error
    settings = (config.threshold, config.smoothing_ms, config.refractory_ms, config.ignore)
    return StreamKey(config.artifact, hashlib.sha256(manifest).hexdigest(), config.runtime, config.threads, settings)


def _verify(artifact: Artifact, runtime: str) -> None:
    kind = RUNTIMES[runtime].format
    if artifact.certificate:
        verify(artifact, runtime)
    else:
        _log.warning("%s has no certificate, so nothing proves its %s file on this machine", artifact.path, kind)


def _decoder(spec: KeywordSpec, config: PipelineConfig, labels: tuple[str, ...]) -> KeywordSpec:
    if config.threshold is not None:
        spec = spec.with_threshold(config.threshold, labels)
    names = ("smoothing_ms", "refractory_ms", "ignore")
    changes: dict[str, Any] = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return replace(spec, **changes)

"""The wake words that a server offers, and the streams that spot them: opened once, lent to one client at a time."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgernn import __version__
from edgernn.artifact import Artifact
from edgernn.devices.daemon.announce import check_announce
from edgernn.devices.daemon.config import PipelineConfig, SourceConfig, WakeConfig
from edgernn.devices.daemon.prepare import Prepared, prepare, stream_key
from edgernn.devices.decoders import decoder_spec_of, names_of
from edgernn.devices.pipeline import front_end_of, open_stream
from edgernn.errors import ArtifactError, UsageError
from edgernn.event_stream import EventStream

__all__ = ["PROGRAM", "Spotter", "WakeWords", "wake_key"]

PROGRAM = "edgernn"
ATTRIBUTION = {"name": "EdgeRNN", "url": ""}


class Spotter:
    """One artifact, the words of it that are offered, and streams of it that no client has."""

    def __init__(self, prepared: Prepared, words: Collection[str]) -> None:
        self.prepared, self.words = prepared, words
        self._spare = [prepared.stream]
        self._lock = threading.Lock()
        self._retired = False

    def take(self) -> EventStream:
        """Return a stream at its beginning; raise `ArtifactError` if it must be opened and its file is another now."""
        with self._lock:
            if self._spare:
                return self._spare.pop()
        config, artifact = self.prepared.config, self.prepared.artifact
        spec = self.prepared.stream.decoder.spec  # type: ignore[attr-defined]
        stream = open_stream(artifact, self.prepared.runtime, config.threads, spec)
        if stream_key(config) != self.prepared.key:
            stream.runner.close()
            raise ArtifactError(f"{artifact.path} was replaced since it was opened: reload the daemon (SIGHUP)")
        return stream

    def give_back(self, stream: EventStream) -> None:
        """Keep a stream for the next client."""
        stream.reset()
        with self._lock:
            if not self._retired:
                self._spare.append(stream)
                return
        stream.runner.close()

    def retire(self) -> None:
        """Free the streams that are not lent, and the others when they come back."""
        with self._lock:
            self._retired, spare = True, self._spare
            self._spare = []
        for stream in spare:
            stream.runner.close()


class WakeWords:
    """All words of a configuration; raises what is wrong with it or its artifacts."""

    def __init__(self, config: WakeConfig) -> None:
        self.config, self.key = config, wake_key(config)
        if config.announce:
            check_announce(urlsplit(config.listen).hostname or "")
        artifacts = [Artifact.open(path) for path in config.artifact]
        for artifact in artifacts:
            front_end_of(artifact)  # words are heard: it must take sound
        offered = [names_of(decoder_spec_of(artifact), artifact) for artifact in artifacts]
        _check(config, offered)
        self.spotters = [
            Spotter(prepare(_pipeline(config, artifact)), [word for word in words if _is_offered(config, word)])
            for artifact, words in zip(artifacts, offered, strict=True)
        ]
        self.words = [word for spotter in self.spotters for word in spotter.words]
        self.info = self._info()
        """What answers `describe`."""

    @property
    def prepared(self) -> list[Prepared]:
        """What it was made of, an artifact each."""
        return [spotter.prepared for spotter in self.spotters]

    def spotters_of(self, names: Collection[str] | None) -> list[Spotter]:
        """Return those that have one of some words, or of all."""
        return [one for one in self.spotters if names is None or not set(names).isdisjoint(one.words)]

    def retire(self) -> None:
        """Free what is not lent; other words take over."""
        for spotter in self.spotters:
            spotter.retire()

    def _info(self) -> Mapping[str, Any]:
        models = [
            {
                "name": word,
                "phrase": word,
                "languages": list(self.config.languages),
                "attribution": ATTRIBUTION,
                "installed": True,
                "description": f"'{word}', spotted by {spotter.prepared.artifact.name}",
                "version": spotter.prepared.key.digest[:12],
            }
            for spotter in self.spotters
            for word in spotter.words
        ]
        program = {
            "name": PROGRAM,
            "description": "Recurrent networks that spot words",
            "attribution": ATTRIBUTION,
            "installed": True,
            "version": __version__,
            "models": models,
        }
        return {"wake": [program], **{other: [] for other in ("asr", "tts", "handle", "intent", "mic", "snd")}}


def wake_key(config: WakeConfig) -> object:
    """Return what decides which words are offered, and how: that of the configuration and of the artifacts' files."""
    return config, tuple(stream_key(_plain_pipeline(config, path)) for path in config.artifact)


def _plain_pipeline(config: WakeConfig, artifact: Path) -> PipelineConfig:
    return PipelineConfig(
        "wake",
        artifact,
        SourceConfig("wyoming:"),
        config.sinks,
        config.runtime,
        config.threads,
        smoothing_ms=config.smoothing_ms,
        refractory_ms=config.refractory_ms,
        provider=config.provider,
    )


def _pipeline(config: WakeConfig, artifact: Artifact) -> PipelineConfig:
    """Return an artifact's part of the configuration, as that of a pipeline."""
    threshold = config.threshold
    if isinstance(threshold, Mapping):
        threshold = {word: score for word, score in threshold.items() if word in artifact.labels} or None
    return replace(_plain_pipeline(config, artifact.path), threshold=threshold)


def _is_offered(config: WakeConfig, word: str) -> bool:
    return config.words is None or word in config.words


def _check(config: WakeConfig, offered: Iterable[Collection[str]]) -> None:
    words = [word for some in offered for word in some if _is_offered(config, word)]
    for word in words:
        if words.count(word) > 1:
            raise UsageError(f"two artifacts have the word '{word}': name in [wake] the words that are offered")
    known = [word for some in offered for word in some]
    named = config.threshold if isinstance(config.threshold, Mapping) else {}
    for word in [*(config.words or ()), *named]:
        if word not in known:
            raise UsageError(f"there is no word '{word}' to offer; the artifacts have: {', '.join(known)}")

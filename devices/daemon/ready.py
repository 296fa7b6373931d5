"""A configuration with all that it takes to go over to it: streams, wake words, and an eye on their artifacts."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgernn.devices import sources
from edgernn.devices.daemon.config import Config, PipelineConfig, WakeConfig
from edgernn.devices.daemon.prepare import Prepared, mistakes_of, prepare, stream_key
from edgernn.devices.daemon.store import Store, trusted_keys
from edgernn.devices.daemon.wake_counters import WAKE
from edgernn.devices.daemon.wake_words import WakeWords, wake_key
from edgernn.devices.daemon.watch import Watch
from edgernn.errors import EdgeRNNError, FailureError, NotThereError

__all__ = ["Ready", "prepare_from", "same_place"]


@dataclass(frozen=True)
class Ready:
    """What the daemon can go over to at once."""

    config: Config
    prepared: Mapping[str, Prepared]
    """A stream for each pipeline: at its beginning, or one that runs."""
    words: WakeWords | None
    store: Store
    watch: Watch
    """Of the artifacts, since before they were opened."""

    @classmethod
    def of(
        cls,
        config: Config,
        refused: Counter[str],
        running: Mapping[str, Prepared],
        words: WakeWords | None,
        hearing: Collection[str] = (),
    ) -> Ready:
        """Open everything, but leave what runs already (`running`, `words`) if it would be the same.

        `refused` counts what was not taken, by pipeline. Raises what is wrong; that is also another source for one of
        the pipelines `hearing` theirs, if it is not there.
        """
        store = Store(config.folder / "artifacts", trusted_keys(config.store), refused)
        watch = Watch(_artifacts(config), config.store.watch_s)
        prepared = {}
        for name, pipeline in config.pipelines.items():
            with _placed(config, "pipeline", name):
                prepared[name] = prepare_from(store, pipeline, running.get(name))
                if name in hearing and pipeline.source != running[name].config.source:
                    with mistakes_of("source"):
                        _check_source(prepared[name])
        with _placed(config, "wake"):
            fresh = _words(store, config.wake, words)
        return cls(config, prepared, fresh, store, watch)

    def forget_others(self) -> None:
        """Take what else an earlier configuration kept out of the store."""
        self.store.retain([*self.prepared, *([WAKE] if self.words else [])])


@contextlib.contextmanager
def _placed(config: Config, *keys: str) -> Iterator[None]:
    """Have an error say where in the configuration its cause stands."""
    try:
        yield
    except EdgeRNNError as error:
        error.args = (f"{config.place(*keys, *filter(None, [error.key]))}: {error}",)
        raise


def _artifacts(config: Config) -> list[Path]:
    wake = config.wake.artifact if config.wake else ()
    return [*(pipeline.artifact for pipeline in config.pipelines.values()), *wake]


def prepare_from(store: Store, config: PipelineConfig, running: Prepared | None = None) -> Prepared:
    """Prepare a pipeline with a copy of its artifact; what runs (`running`) is given back if it would be the same."""

    def open_one(folders: Sequence[Path]) -> Prepared:
        kept = replace(config, artifact=folders[0])
        if running and same_place(running.config, config) and stream_key(kept) == running.key:
            return replace(running, config=kept)
        fresh = prepare(kept)
        with contextlib.suppress(FailureError, NotThereError):  # what is not there just now is waited for
            _check_source(fresh)
        return fresh

    return store.take(config.name, [config.artifact], open_one)


def _check_source(prepared: Prepared) -> None:
    source, stream = prepared.config.source, prepared.stream
    sources.check_source(source.uri, stream.rate_hz, source.options, stream.frame_shape)


def _words(store: Store, config: WakeConfig | None, running: WakeWords | None) -> WakeWords | None:
    if config is None:
        return None

    def open_all(folders: Sequence[Path]) -> WakeWords:
        kept = replace(config, artifact=tuple(folders))
        return running if running and running.key == wake_key(kept) else WakeWords(kept)

    return store.take(WAKE, config.artifact, open_all)


def same_place(one: PipelineConfig, other: PipelineConfig) -> bool:
    """Tell whether two pipelines listen to the same source, in the same way."""
    return (one.source, one.fast, one.chunk_ms) == (other.source, other.fast, other.chunk_ms)

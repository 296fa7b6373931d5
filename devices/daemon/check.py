"""`edgernn serve --check`: what can be known about a configuration without starting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from edgernn.devices import sinks, sources
from edgernn.devices.daemon.config import Config, SinkConfig, SourceConfig
from edgernn.devices.daemon.fields import Problems
from edgernn.devices.daemon.occupied import check_machine
from edgernn.devices.daemon.prepare import prepare
from edgernn.devices.daemon.store import check_trusted, trusted_keys
from edgernn.devices.daemon.wake_words import WakeWords
from edgernn.devices.secret import Secret
from edgernn.devices.signing import TrustedKey
from edgernn.errors import EdgeRNNError, FailureError, NotThereError
from edgernn.text import table, without_passwords

__all__ = ["check", "check_places"]

ANY_HZ = 16000


def check(config: Config, here: bool = False) -> str:
    """Open and verify every artifact, look for every source, read every secret; return a table for people.

    With `here`, look whether ports and folder are free, too, since it is this process that would be the daemon.
    Raises `UsageError` with a line for each mistake.
    """
    rows: list[list[str]] = []
    problems = Problems()
    trusted: list[TrustedKey] = []
    with _problem(problems, config, "store", "trusted_keys"):
        trusted = trusted_keys(config.store)
    for name, pipeline in config.pipelines.items():
        with _problem(problems, config, "pipeline", name, of_artifact="artifact"):
            check_trusted(pipeline.artifact, trusted)
            prepared = prepare(pipeline)
            stream, runtime = prepared.stream, prepared.stream.runner.runtime
            shown = without_passwords(pipeline.source.uri)
            rows.append([name, shown, prepared.artifact.name, runtime, ", ".join(pipeline.sinks)])
            stream.runner.close()
            with _problem(problems, config, "pipeline", name, "source"):
                _check_source(pipeline.source, stream.rate_hz, stream.frame_shape)
    if config.wake is not None:
        with _problem(problems, config, "wake", of_artifact="artifact"):
            for artifact in config.wake.artifact:
                check_trusted(artifact, trusted)
            words = WakeWords(config.wake)
            for one in words.prepared:
                runtime = one.stream.runner.runtime
                rows.append(["wake", config.wake.listen, one.artifact.name, runtime, ", ".join(config.wake.sinks)])
            words.retire()
    _check_standard_input(config, problems)
    for name, sink in config.sinks.items():
        with _problem(problems, config, "sink", name):
            _check_sink(sink)
            sinks.check_folder(sink.uri)
            if sink.uri.startswith("command:"):
                sinks.open_sink(sink.uri, sink.options).close()  # looks for the program, which a start waits for
    remarks = check_machine(config, problems) if here else []
    problems.check()
    return "\n".join([table(["pipeline", "source", "artifact", "runtime", "sinks"], rows), *remarks])


@contextlib.contextmanager
def _problem(problems: Problems, config: Config, *keys: str, of_artifact: str = "") -> Iterator[None]:
    """Note what is raised, with its place; `of_artifact` is the key that has what is wrong with an artifact."""
    try:
        yield
    except EdgeRNNError as error:
        is_artifact = isinstance(error, (FailureError, NotThereError))
        key = error.key or (of_artifact if is_artifact else "")
        problems.add(config.place(*keys, *filter(None, [key])), str(error))


def check_places(config: Config, running: Config | None = None) -> None:
    """Check what a start or a reload would stumble over; a source that is not there just now is waited for.

    So is the folder of a sink, such as a disk that is yet to be mounted, but not that of one which is another than in
    the configuration that is `running`. Raises `UsageError` with a line for each mistake.
    """
    problems = Problems()
    for name, sink in config.sinks.items():
        with _problem(problems, config, "sink", name):
            _check_sink(sink)
            if running is not None and running.sinks.get(name) != sink:
                sinks.check_folder(sink.uri)
    for name, pipeline in config.pipelines.items():
        with (
            _problem(problems, config, "pipeline", name, "source"),
            contextlib.suppress(FailureError, NotThereError),
        ):
            _check_source(pipeline.source, ANY_HZ, None)
    _check_standard_input(config, problems)
    problems.check()


def _check_standard_input(config: Config, problems: Problems) -> None:
    """Note a pipe that several would read, of which each would get what the others leave."""
    names = [name for name, one in config.pipelines.items() if one.source.uri.partition("?")[0] in ("-", "stdin:")]
    for name in names[1:]:
        where = config.place("pipeline", name, "source")
        problems.add(where, f"pipeline.{names[0]} reads standard input, which can be heard only once")


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

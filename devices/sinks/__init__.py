"""Where events go, one file each, which is imported when it is chosen; `open_sink` chooses by URI."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edgernn.devices.sinks.lines import JsonSink, TextSink
from edgernn.devices.uri import read_options, split_query
from edgernn.errors import UsageError
from edgernn.stream import Sink

__all__ = ["SCHEMES", "check_folder", "check_sink", "open_sink", "sink_opener"]

SCHEMES = {
    "- or text:": "lines for people on standard output",
    "json:": "JSON lines on standard output",
    "json:PATH?rotate=10MB": "JSON lines, added to a file (rotate, keep, sync)",
    "sqlite:PATH": "rows of an SQLite database (keep)",
    "mqtt://HOST/TOPIC": "an MQTT broker, and Home Assistant (user, password, discovery, name, protocol, …)",
    "mqtts://HOST/TOPIC": "… with TLS (ca, cert, key)",
    "https://HOST/PATH": "a POST for each event; also http: (in a table: token, secret, ca, timeout)",
    "command:PROGRAM {word}": "a program for each event: {word}, {score}, {json}, … (in a table: timeout)",
    "unix:PATH": "a Unix socket, JSON lines, each answered with its id (ack, timeout)",
}
"""How each is written, and what it is."""

Options = TypeVar("Options")
Table = Mapping[str, Any]


def open_sink(uri: str, options: Table | None = None, words: Sequence[str] = ()) -> Sink:
    """Open a sink; `options` are those of its table in a configuration, `words` what events may say.

    Raises `UsageError` for an unknown scheme or option, or a file that cannot be written, and `SinkError` where the
    other side is not there.
    """
    return sink_opener(uri, options, words)()


def sink_opener(uri: str, options: Table | None = None, words: Sequence[str] = ()) -> Callable[[], Sink]:
    """Return what opens a sink, as often as wanted; raise `UsageError` for a URI or an option that makes no sense."""
    scheme, colon, rest = ("text:" if uri == "-" else uri).partition(":")
    if scheme not in OPENERS or not (colon or scheme in ("text", "json")):
        raise UsageError(f"there is no sink '{uri}'; the sinks are: {', '.join(SCHEMES)}")
    return OPENERS[scheme](scheme, rest, options or {}, words)


def check_sink(uri: str, options: Table | None = None) -> None:
    """Check all that can be checked without opening the sink; raise `UsageError` for what is wrong."""
    sink_opener(uri, options)


def check_folder(uri: str) -> None:
    """Raise `UsageError` where a sink is a file, and there is no folder for it."""
    scheme, _, rest = uri.partition(":")
    if scheme in ("json", "sqlite") and rest:
        _check_folder(_path_of(rest)[0])


def _check_folder(path: str) -> None:
    if not Path(path).parent.is_dir():
        raise UsageError(f"the file {path} for events cannot be written: {os.strerror(errno.ENOENT)}")


def _text(_: str, rest: str, table: Table, __: Sequence[str]) -> Callable[[], Sink]:
    if rest or table:
        raise UsageError("the sink text: goes to standard output, and has no path or options")
    return TextSink


def _json(_: str, rest: str, table: Table, __: Sequence[str]) -> Callable[[], Sink]:
    if not rest and not table:
        return JsonSink
    from edgernn.devices.sinks.json_file import JsonFileOptions, JsonFileSink

    path, options = _with_path(JsonFileOptions, "json", rest, table)
    return lambda: JsonFileSink(path, options)


def _sqlite(_: str, rest: str, table: Table, __: Sequence[str]) -> Callable[[], Sink]:
    from edgernn.devices.sinks.sqlite import SqliteOptions, SqliteSink

    path, options = _with_path(SqliteOptions, "sqlite", rest, table)

    def open_() -> Sink:
        _check_folder(path)  # SQLite would not say what is wrong
        return SqliteSink(path, options)

    return open_


def _unix(_: str, rest: str, table: Table, __: Sequence[str]) -> Callable[[], Sink]:
    from edgernn.devices.sinks.unix_socket import UnixOptions, UnixSink

    path, options = _with_path(UnixOptions, "unix", rest, table)
    return lambda: UnixSink(path, options)


def _with_path(kind: type[Options], scheme: str, rest: str, table: Table) -> tuple[str, Options]:
    path, query = _path_of(rest)
    if not path:
        raise UsageError(f"the sink {scheme}: needs a path, as in '{scheme}:PATH'")
    return path, read_options(kind, f"the sink {scheme}:{path}", query, table)


def _path_of(rest: str) -> tuple[str, str]:
    """Return the path of a file, and the options after it."""
    path, query = split_query(rest)
    return "/" + path.lstrip("/") if path.startswith("///") else path, query  # json:///var/lib, as other URIs


def _command(_: str, rest: str, table: Table, __: Sequence[str]) -> Callable[[], Sink]:
    from edgernn.devices.sinks.command import CommandOptions, CommandSink, split_command

    words, options = split_command(rest), read_options(CommandOptions, "the sink command:", "", table)
    return lambda: CommandSink(words, options)


def _webhook(scheme: str, rest: str, table: Table, __: Sequence[str]) -> Callable[[], Sink]:
    from edgernn.devices.sinks.webhook import WebhookOptions, WebhookSink

    options = read_options(WebhookOptions, "a webhook", "", table)
    WebhookSink(f"{scheme}:{rest}", options).close()  # connects with the first event: what is wrong now is the URL
    return lambda: WebhookSink(f"{scheme}:{rest}", options)


def _mqtt(scheme: str, rest: str, table: Table, words: Sequence[str]) -> Callable[[], Sink]:
    from edgernn.devices.sinks.mqtt import MqttOptions, MqttSink, mqtt_broker

    place, _, query = rest.partition("?")
    options = read_options(MqttOptions, f"the sink {scheme}:", query, table)
    broker = mqtt_broker(f"{scheme}:{place}", options)
    return lambda: MqttSink(broker, options, words)


OPENERS: Mapping[str, Callable[[str, str, Table, Sequence[str]], Callable[[], Sink]]] = {
    "text": _text,
    "json": _json,
    "sqlite": _sqlite,
    "unix": _unix,
    "command": _command,
    "http": _webhook,
    "https": _webhook,
    "mqtt": _mqtt,
    "mqtts": _mqtt,
}

"""The layers of a configuration: a TOML file, the environment over it, `--set` over both; each value with its place.

The library that reads TOML tells no lines. But a prefix of a statement is never a statement itself: lines are added
up until the library takes them, which gives where each statement begins, and parsed by itself it gives its keys. So
the grammar stays the library's own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgernn.errors import UsageError
from edgernn.files import check_there, read_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Layers", "read_file_layer", "value_of"]

MOST_BYTES = 2**20
HINTS = {"Invalid value": "; a text stands in quotes", "Cannot overwrite a value": "; this key stands there twice"}
Keys = tuple[str, ...]


@dataclass
class Layers:
    """Nested values, and where each stands: "edge.toml:12", "EDGERNN_HTTP_LISTEN", "--set http.listen"."""

    values: dict[str, Any]
    places: dict[Keys, str] = field(default_factory=dict)
    origin: str = ""
    """Where all is from that has no place of its own."""

    def place(self, keys: Keys) -> str:
        """Return where a value stands, or else the first one in it, or the nearest table around it."""
        if keys and keys not in self.places:
            inner = (place for known, place in self.places.items() if known[: len(keys)] == keys)
            if first := next(inner, None):
                return first
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.places:
                return self.places[keys[:length]]
        return self.origin

    def put(self, keys: Keys, value: Any, place: str) -> None:
        """Lay a value over what is there; raise `UsageError` where a table would have to be in a value's place."""
        table = self.values
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise UsageError(f"{place}: {'.'.join(keys)} goes through '{key}', which is no table")
        table[keys[-1]] = value
        self.places = {known: where for known, where in self.places.items() if known[: len(keys)] != keys}
        self.places[keys] = place


def read_file_layer(path: Path) -> Layers:
    """Read a TOML file; raise `UsageError` naming file and line if it is none."""
    check_there(path, "a configuration, as the README shows one")
    try:
        text = read_file(path, MOST_BYTES).decode()
    except OSError as error:
        raise UsageError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the configuration {path} is not UTF-8 text: byte {error.start} is not") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, line = _reason_and_line(str(error), text)
        raise UsageError(f"{path}:{line}: not TOML: {reason}{HINTS.get(reason, '')}") from error
    except RecursionError as error:
        raise UsageError(f"the configuration {path} is nested too deeply") from error
    places = {keys: f"{path}:{line}" for keys, line in _statements(text)}
    return Layers(values, places, str(path))


def value_of(text: str) -> Any:
    """Return what a text from the environment or the command line says: a TOML value, or else the text itself.

    >>> value_of("0.5"), value_of("mic:"), value_of('["text:", "json:"]')
    (0.5, 'mic:', ['text:', 'json:'])
    """
    try:
        values = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return values["value"] if set(values) == {"value"} else text


def _reason_and_line(message: str, text: str) -> tuple[str, int]:
    found = re.search(r" \(at line (\d+), column \d+\)$", message)
    if found:
        return message[: found.start()], int(found[1])
    return message.removesuffix(" (at end of document)"), text.count("\n") + 1


def _statements(text: str) -> Iterator[tuple[Keys, int]]:
    """Yield each key of a document that is TOML, in full, with its line; a later table of the same name as well."""
    header: Keys = ()
    for line, statement, values in _parsed(text.splitlines(keepends=True)):
        if statement.lstrip().startswith("["):
            header = _only_path(values)
            yield header, line
        else:
            for keys in _paths(values):
                yield (*header, *keys), line


def _parsed(lines: Sequence[str]) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    statement, begin = "", 1
    for number, line in enumerate(lines, 1):
        statement = statement + line if statement else line
        try:
            values = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if values:
            yield begin, statement, values
        statement, begin = "", number + 1


def _only_path(values: Any) -> Keys:
    """Return the keys of a table's header."""
    keys: list[str] = []
    while values and not isinstance(values, list):
        [(key, values)] = values.items()
        keys.append(key)
    return tuple(keys)


def _paths(values: Any) -> Iterable[Keys]:
    for key, value in values.items():
        yield (key,)
        if isinstance(value, dict):
            for keys in _paths(value):
                yield (key, *keys)

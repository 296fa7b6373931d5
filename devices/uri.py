"""What stands behind a URI of a source or a sink: its parts, and its options as one frozen dataclass.

An option stands behind the URI (`json:PATH?rotate=10MB`) or in its table (`{ uri = "json:PATH", rotate = "10MB" }`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, NewType, TypeVar, get_args, get_type_hints
from urllib.parse import parse_qsl

from edgernn.devices.secret import Secret
from edgernn.errors import UsageError

__all__ = ["Bytes", "parse_size", "read_options", "split_query"]

Bytes = NewType("Bytes", int)
"""A size; as text also with a unit, such as 10MB or 64KiB."""
Options = TypeVar("Options")

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
FLAGS = {"true": True, "yes": True, "1": True, "": True, "false": False, "no": False, "0": False}


def split_query(rest: str) -> tuple[str, str]:
    """Take the options off the end of a URI; a question mark without `name=` behind it is part of a name.

    >>> split_query("events?.jsonl?rotate=10MB&keep=3")
    ('events?.jsonl', 'rotate=10MB&keep=3')
    """
    found = re.fullmatch(r"(.*?)\?([a-z_]+=.*)", rest, re.DOTALL)
    return (found[1], found[2]) if found else (rest, "")


def parse_size(value: Any) -> int:
    """Return the bytes of a whole number, or of a text with a unit; raise `ValueError` saying what was expected.

    >>> parse_size("10MB"), parse_size("1.5 KiB"), parse_size(512)
    (10000000, 1536, 512)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", str(value)) if type(value) in (int, str) else None
    if not found or found[2].upper() not in UNITS or (size := int(float(found[1]) * UNITS[found[2].upper()])) < 1:
        raise ValueError("must be a size such as 10MB or 64KiB")
    return size


def read_options(kind: type[Options], what: str, query: str, table: Mapping[str, Any]) -> Options:
    """Return the dataclass `kind` with the options of a URI, and those of its table over them.

    A field is a str, int, float, bool, `Bytes`, `Secret` or tuple of texts, or None. `what` is for messages. Raises
    `UsageError` for an unknown option, or a value that is none.
    """
    given = {**dict(parse_qsl(query, keep_blank_values=True)), **table}
    hints = get_type_hints(kind)
    for name in given:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1)
            hint = f"did you mean {near[0]}?" if near else f"its options are: {', '.join(hints) or 'none'}"
            raise UsageError(f"{what} has no option '{name}'; {hint}")
    missing = [one.name for one in fields(kind) if one.default is MISSING and one.name not in given]  # type: ignore[arg-type]
    if missing:
        raise UsageError(f"{what} needs the option {missing[0]}")
    return kind(**{name: _read(hints[name], value, f"the option {name} of {what}") for name, value in given.items()})


def _read(hint: Any, value: Any, what: str) -> Any:
    kind = (
        next((one for one in get_args(hint) if one is not type(None)), hint) if type(None) in get_args(hint) else hint
    )
    if kind is Secret:
        if not isinstance(value, (str, Secret)):
            raise UsageError(f"{what} must be a text")  # not what it is
        return value if isinstance(value, Secret) else Secret("text", value)
    if isinstance(value, Secret):
        value = value.reveal()
    if kind is bool:
        if (flag := FLAGS.get(str(value).lower())) is None:
            raise UsageError(f"{what} must be true or false, not '{value}'")
        return flag
    if kind is Bytes:
        try:
            return parse_size(value)
        except ValueError as error:
            raise UsageError(f"{what} {error}, not '{value}'") from None
    if kind in (int, float):
        return _number(kind, value, what)
    if kind is str:
        return _text(value, what)
    return tuple(_text(one, what) for one in (value.split(",") if isinstance(value, str) else value))


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what} must be a text, not {value}")
    return value


def _number(kind: type, value: Any, what: str) -> Any:
    try:
        number = kind(value)
    except (TypeError, ValueError):
        number = -1
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise UsageError(f"{what} must be a {'whole ' if kind is int else ''}number above 0, not '{value}'")
    return number

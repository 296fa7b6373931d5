"""What a key of the configuration may hold, and how the values of a table become a frozen dataclass."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_origin, get_type_hints
from urllib.parse import urlsplit

from edgernn.devices.daemon.layers import Layers
from edgernn.devices.secret import Secret
from edgernn.devices.uri import parse_size
from edgernn.errors import UsageError

__all__ = [
    "Address", "Problems", "Read", "address", "choice", "fill", "flag", "nbytes", "number", "option", "path", "paths",
    "readers", "tcp", "text", "texts", "unknown", "whole",
]  # fmt: skip

Read = Callable[[Any], Any]
"""Takes what TOML gives; returns the value, or raises `UsageError` saying what was expected."""
Section = TypeVar("Section")


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


class Problems(list[str]):
    """All that is wrong with a configuration, so that it is told at once."""

    def add(self, place: str, what: str) -> None:
        """Note one."""
        self.append(f"{place}: {what}")

    def check(self) -> None:
        """Raise `UsageError` if there is any."""
        if self:
            raise UsageError("\n  ".join([self[0], *self[1:]]))


def readers(section: type) -> dict[str, Read]:
    """Return what reads each key of a section: a field that is annotated as `Annotated[type, read]`."""
    hints = get_type_hints(section, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if get_origin(hint) is Annotated}


def fill(section: type[Section], layers: Layers, keys: tuple[str, ...], problems: Problems, **known: Any) -> Section:
    """Make the dataclass of the table at `keys`; what is wrong goes to `problems`, with a default in its place.

    `known` are fields that are not read, such as the table's own name.
    """
    table = layers.values
    for part in keys:
        table = table.get(part, {})
    if not isinstance(table, Mapping):
        problems.add(layers.place(keys), f"{'.'.join(keys)} must be a table, found {_shown(table)}")
        table = {}
    known_keys = readers(section)
    for name in table:
        if name not in known_keys:
            problems.add(layers.place((*keys, name)), unknown((*keys, name), known_keys))
    for name, read in known_keys.items():
        known[name] = getattr(section, name, None)
        if name in table:
            try:
                known[name] = read(table[name])
            except UsageError as error:
                problems.add(layers.place((*keys, name)), f"{'.'.join((*keys, name))} {error}")
        elif not hasattr(section, name):
            problems.add(layers.place(keys), f"{'.'.join(keys)} lacks the key {name}")
    return section(**known)


def unknown(keys: Sequence[str], names: Mapping[str, Any]) -> str:
    """Say that a key is unknown, and which known one is like it."""
    near = difflib.get_close_matches(keys[-1], names, 1)
    hint = f"did you mean {near[0]}?" if near else f"the keys are: {', '.join(names)}"
    return f"{'.'.join(keys)} is not known; {hint}"


def text(value: Any) -> str:
    """Take a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise UsageError(f"must be a text, found {_shown(value)}")
    return value


def path(value: Any) -> Path:
    """Take a path."""
    return Path(text(value)).expanduser()


def paths(value: Any) -> tuple[Path, ...]:
    """Take one path or several."""
    values = value if isinstance(value, list) and value else [value]
    return tuple(path(element) for element in values)


def tcp(value: Any) -> str:
    """Take where to listen, such as tcp://127.0.0.1:10400."""
    try:
        parts = urlsplit(text(value))
        whole_address = parts.scheme == "tcp" and parts.hostname and parts.port is not None and not parts.path
    except ValueError:  # no port
        whole_address = False
    if not whole_address:
        raise UsageError(f"must be an address such as tcp://127.0.0.1:10400, found {_shown(value)}")
    return str(value)


def texts(value: Any) -> tuple[str, ...]:
    """Take one text or several."""
    values = value if isinstance(value, list) else [value]
    return tuple(text(element) for element in values)


def flag(value: Any) -> bool:
    """Take true or false."""
    if not isinstance(value, bool):
        raise UsageError(f"must be true or false, found {_shown(value)}")
    return value


def number(least: float, most: float = math.inf, above: bool = False) -> Read:
    """Take a number of at least (or, with `above`, more than) `least` and at most `most`."""

    def read(value: Any) -> float:
        fine = type(value) in (int, float) and least <= value <= most and not (above and value == least)
        if not fine or value == math.inf:
            limits = f"{'above' if above else 'of at least'} {least:g}"
            limits += f" and at most {most:g}" if most < math.inf else ""
            raise UsageError(f"must be a number {limits}, found {_shown(value)}")
        return float(value)

    return read


def whole(least: int, most: int | None = None) -> Read:
    """Take a whole number."""

    def read(value: Any) -> int:
        if type(value) is not int or value < least or (most is not None and value > most):
            limits = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise UsageError(f"must be a whole number {limits}, found {_shown(value)}")
        return value

    return read


def choice(*names: str) -> Read:
    """Take one of some names."""

    def read(value: Any) -> str:
        if value not in names:
            raise UsageError(f"must be one of {', '.join(names)}, found {_shown(value)}")
        return str(value)

    return read


def nbytes(value: Any) -> int:
    """Take a size, such as 10MB."""
    try:
        return parse_size(value)
    except ValueError as error:
        raise UsageError(f"{error}, found {_shown(value)}") from None


def address(value: Any) -> Address:
    """Take a host and a port.

    >>> address("127.0.0.1:8080"), address("[::1]:0")
    (Address(host='127.0.0.1', port=8080), Address(host='::1', port=0))
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/]+)):(\d{1,5})", value) if isinstance(value, str) else None
    if not found or int(found[3]) > 65535:
        raise UsageError(f'must be a host and a port, as in "127.0.0.1:8080" or "[::1]:8080", found {_shown(value)}')
    return Address(found[1] or found[2], int(found[3]))


def option(value: Any) -> Any:
    """Take what a source or a sink makes sense of: a plain value, or where a secret is."""
    if not isinstance(value, Mapping):
        return value
    if len(value) == 1 and (kind := next(iter(value))) in ("file", "credential", "env"):
        return Secret(kind, text(value[kind]))
    raise UsageError('must be a value, { file = "…" }, { credential = "…" } or { env = "…" }; found another table')


def _shown(value: Any) -> str:
    """Return a value as TOML has it; a table without what is in it, which may be a secret."""
    if isinstance(value, (bool, str)):
        return str(value).lower() if isinstance(value, bool) else f'"{value}"' if value else "an empty text"
    return "a table" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else str(value)

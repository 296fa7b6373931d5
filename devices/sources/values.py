"""Frames of values out of text, as sensors send them: JSON, or numbers with something between them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import UsageError

__all__ = ["MOST_TEXT", "ValueReader", "as_frame"]

MOST_TEXT = 65536
"""Characters of a message or a line; a longer one is malformed."""


class ValueReader:
    """Reads frames of the shape that a model takes, `(features...)`.

    `fields` name the members of a JSON object (a dot goes deeper), or say the columns (from 0) of plain numbers;
    without it, there must be as many numbers as the model takes.
    """

    def __init__(self, what: str, fields: Sequence[str], shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._fields, self._size = tuple(fields), math.prod(shape)
        if fields and len(fields) != self._size:
            raise UsageError(f"{what} names {len(fields)} fields, and the model takes {self._size} values a frame")
        self._columns = [int(field) for field in fields] if all(field.isdecimal() for field in fields) else None

    def read(self, text: str) -> NDArray[np.float32]:
        """Return the frames of one message, `(n, features...)`, NaN where a value is missing.

        Raises `ValueError` for what is none.
        """
        if len(text) > MOST_TEXT:
            raise ValueError("too long")
        text = text.strip()
        if text[:1] in ("{", "["):
            try:
                rows = self._rows(json.loads(text))
            except RecursionError:
                raise ValueError("nested too deeply") from None
        else:
            rows = [self._plain(line) for line in text.splitlines() if line.strip()]
        if not rows:
            raise ValueError("empty")
        return np.concatenate([as_frame(row, self.shape) for row in rows])

    def _rows(self, value: Any) -> list[list[float]]:
        if isinstance(value, list) and value and all(isinstance(row, (list, dict)) for row in value):
            return [self._row(row) for row in value]
        return [self._row(value)]

    def _row(self, value: Any) -> list[float]:
        if isinstance(value, Mapping):
            if not self._fields:
                raise ValueError("an object, and no fields are named (fields=A,B)")
            row = [_number(_member(value, field)) for field in self._fields]
            if all(map(math.isnan, row)):
                raise ValueError(f"none of the fields {', '.join(self._fields)}")
            return row
        return self._chosen([_number(one) for one in value])

    def _plain(self, line: str) -> list[float]:
        return self._chosen([float(word) for word in re.split(r"\s*[,;]\s*|\s+", line.strip())])

    def _chosen(self, row: list[float]) -> list[float]:
        if self._columns:
            if max(self._columns) >= len(row):
                raise ValueError(f"{len(row)} values")
            return [row[column] for column in self._columns]
        if len(row) != self._size:
            raise ValueError(f"{len(row)} values, and the model takes {self._size}")
        return row


def as_frame(row: Sequence[float], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return one frame `(1, features...)`; what is beyond float32 is infinite."""
    with np.errstate(over="ignore"):
        return np.array(row, np.float64).astype(np.float32).reshape(1, *shape)


def _member(value: Any, field: str) -> Any:
    if isinstance(value, Mapping) and field in value:
        return value[field]
    head, dot, rest = field.partition(".")
    return _member(value.get(head), rest) if dot and isinstance(value, Mapping) else None


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, (int, float, str)):
        raise ValueError(f"{type(value).__name__}, not a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf

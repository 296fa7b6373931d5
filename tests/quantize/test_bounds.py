"""The options that ask for approximations."""

from __future__ import annotations

import pytest

from edgernn.errors import UsageError
from edgernn.quantize.bounds import Bounds, Chunked, Window, read_bounds


def test_nothing_is_bounded_unless_asked_for() -> None:
    assert read_bounds() == read_bounds(pooling="running") == Bounds()
    assert str(Bounds()) == ""


def test_each_option_is_read() -> None:
    assert read_bounds("lookahead=0,chunk=3") == read_bounds("chunk=3") == Bounds(Chunked(3, 0))
    assert read_bounds(attention_window="9,lookahead=2").attention == Window(9, 2)
    assert read_bounds(pooling="window=1").pooling_window == 1
    assert read_bounds(approximate="edges").edges


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("bidirectional", "16"), ("bidirectional", "lookahead=8"), ("bidirectional", "chunk=0"),
        ("bidirectional", "chunk=1.5"), ("bidirectional", "chunk=4,chunk=5"), ("bidirectional", "chunk=-1"),
        ("bidirectional", "chunk=4,look=5"), ("bidirectional", ""), ("bidirectional", "chunk=99999999999999999999"),
        ("pooling", "window"), ("pooling", "window=0"), ("pooling", "12"), ("pooling", "mean"),
        ("attention_window", "0"), ("attention_window", "lookahead=3"), ("attention_window", "x"),
        ("attention_window", "²"), ("approximate", "everything"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(option: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"^--{option.replace('_', '-')} {text}: expected "):
        read_bounds(**{option: text})

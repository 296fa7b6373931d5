"""Conversion of trained models to streaming artifacts.

`source_of(model)` takes a Keras model in hand, `load_source(path)` a file; `edgernn.quantize.convert.convert` makes an
artifact of either. Nothing heavy is imported before one of them is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgernn.quantize.source import load_source, source_of

__all__ = ["load_source", "source_of"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edgernn.quantize import source

    return getattr(source, name)

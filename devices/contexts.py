"""What a stream is given once and every step reads: in tensors that no step writes, so that it costs a step nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.devices.ports import writer
from edgernn.errors import ShapeError, StepError
from edgernn.spec import StreamSpec
from edgernn.stream import Context

__all__ = ["ContextKeeper"]


class ContextKeeper:
    """Writes contexts into arrays of a runner, one array each, in the order of the spec, and knows who has none yet."""

    def __init__(self, spec: StreamSpec, arrays: Sequence[NDArray[Any]]) -> None:
        self._specs = spec.contexts
        self.arrays = arrays
        self.missing = set(range(spec.batch)) if spec.contexts else set[int]()
        """Streams that were given no context yet."""
        self._writers = [
            [
                writer(replace(item, shape=(1, *item.shape[1:])), array[stream : stream + 1])
                for item, array in zip(spec.contexts, arrays, strict=True)
            ]
            for stream in range(spec.batch)
        ]

    def give(self, context: Context, streams: Sequence[int]) -> None:
        """Write a context for these streams: one for all, or one for each; raise `ShapeError`, with nothing written."""
        each = self._checked(context, len(streams))
        for stream, values in zip(streams, zip(*each, strict=True), strict=False):
            for write, value in zip(self._writers[stream], values, strict=True):
                write(value)

    def given(self, streams: Sequence[int]) -> None:
        """Note that these streams have theirs."""
        self.missing -= set(streams)

    def check(self, streams: Sequence[int]) -> None:
        """Raise `StepError` where one of these streams has no context yet."""
        without = sorted(self.missing & set(streams))
        if without:
            names = ", ".join(f"'{item.name}': {item.shape[1:]}" for item in self._specs)
            which = f" of the streams {', '.join(map(str, without))}" if len(self._writers) > 1 else ""
            raise StepError(
                f"the model has a context, and none was given{which}: begin with reset(context={{{names}}})"
            )

    def _checked(self, context: Context, streams: int) -> list[NDArray[Any]]:
        names = [item.name for item in self._specs]
        if set(context) != set(names):
            found = ", ".join(context) or "nothing"
            raise ShapeError(f"the model takes the contexts {', '.join(names) or 'none'}, found {found}")
        each = []
        for item in self._specs:
            shape, array = item.shape[1:], np.asarray(context[item.name])
            if array.shape not in (shape, (streams, *shape)):
                raise ShapeError(
                    f"the context '{item.name}' has the shape {shape}, or with {streams} streams in front of that; "
                    f"found {array.shape}"
                )
            if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
                raise ShapeError(f"the context '{item.name}' takes finite numbers, found NaN, infinity or no numbers")
            item.check_entries(array)
            each.append(np.broadcast_to(array, (streams, *shape)))
        return each

"""Where tensors of a file have their streams and frames; everywhere else these are the first two axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Where one tensor of a file has its streams and its frames; None where it has no such axis."""

    batch: int | None
    time: int | None

    @property
    def first(self) -> list[int]:
        """The axes that go to the front."""
        return [axis for axis in (self.batch, self.time) if axis is not None]

    def order(self, rank: int) -> list[int]:
        """Return the axes of a tensor of the file, those first that go to the front.

        >>> Layout(batch=1, time=0).order(3)
        [1, 0, 2]
        """
        return [*self.first, *(axis for axis in range(rank) if axis not in self.first)]

    def place(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return frames of one stream, `(frames, features...)`, as the file takes them."""
        whole = array if self.batch is None else array[None]
        whole = whole if self.time is not None else whole[:, 0] if self.batch is not None else whole[0]
        return np.moveaxis(whole, range(len(self.first)), self.first)

    def canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return what the file gives for one stream as `(frames, features...)`, without a time axis `(features...)`."""
        front = np.moveaxis(array, self.first, range(len(self.first)))
        return front if self.batch is None else front[0]

    def __str__(self) -> str:
        places = {self.batch: "batch", self.time: "time"}
        named = [places.get(axis, "…") for axis in range(max((*self.first, -1)) + 1)]
        return f"({', '.join([*named, 'features...'])})"

"""States from the end of one step to the beginning of the next, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Copy", "flat_bytes", "overlap", "plan_copies"]

Copy = tuple[memoryview, memoryview]
"""Destination and origin, both flat bytes. `destination[:] = origin` takes 0.1 µs; `np.copyto` takes 0.5 µs."""


def plan_copies(origins: Sequence[NDArray[Any]], targets: Sequence[NDArray[Any]]) -> list[Copy]:
    """Return the copies, in order, that bring each origin to its target as if all happened at once.

    A runtime may let tensors share memory: in a delay line the state that goes out can be the very tensor of
    another one that came in. An origin that some copy would overwrite too early goes through a scratch buffer;
    tensors that share nothing, the usual case, are copied directly.
    """
    early, direct, late = [], [], []
    for index, (origin, target) in enumerate(zip(origins, targets, strict=True)):
        if _address(origin) == _address(target):
            continue
        if any(overlap(origin, other) for other in targets):
            scratch = np.empty_like(origins[index])
            early.append((flat_bytes(scratch), flat_bytes(origin)))
            late.append((flat_bytes(target), flat_bytes(scratch)))
        else:
            direct.append((flat_bytes(target), flat_bytes(origin)))
    return early + direct + late


def overlap(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Tell whether two contiguous arrays share a byte."""
    return _address(one) < _address(other) + other.nbytes and _address(other) < _address(one) + one.nbytes


def flat_bytes(array: NDArray[Any]) -> memoryview:
    """Return the bytes of a contiguous array, writable, shape `(nbytes,)`."""
    return array.reshape(-1).view(np.uint8).data


def _address(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)

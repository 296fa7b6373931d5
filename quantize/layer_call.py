"""One call of a Keras layer, as the functions that emit layers see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import onnx_ir as ir

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.graph import Builder

__all__ = ["Call", "Tensor", "refuse"]


@dataclass(frozen=True)
class Tensor:
    """A Keras tensor and the value that it became."""

    value: ir.Value
    shape: tuple[int | None, ...]
    """As Keras has it, the batch first; None where it is not fixed."""
    dtype: str


@dataclass(frozen=True)
class Call(Sequence[ir.Value]):
    """What a layer is called on: a sequence of the values among its positional arguments, and all that is known.

    Inside TimeDistributed a layer knows nothing of the time axis, which the graph has: `outer` axes lie between the
    batch and what Keras calls axis 1.
    """

    layer: Any
    args: tuple[Any, ...]
    """As in Python, with a `Tensor` for each Keras tensor."""
    kwargs: Mapping[str, Any]
    dtypes: tuple[str, ...] = ("float32",)
    """Of the outputs."""
    outer: int = 0

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the positional arguments, in order."""
        return [item for item in _flat(self.args) if isinstance(item, Tensor)]

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of the first tensor, as Keras has it."""
        return self.tensors[0].shape

    @property
    def rank(self) -> int:
        """Number of axes of the first tensor in the graph."""
        return len(self.shape) + self.outer

    @property
    def mask(self) -> ir.Value | None:
        """Which frames count, bool, `(batch, time)`; None where all do."""
        given = [item.value for item in _flat([self.kwargs.get("mask")]) if isinstance(item, Tensor)]
        return given[0] if given else None

    def axis(self, axis: int, added: int = 0) -> int:
        """Return which axis of the graph's value (with `added` new axes) Keras means by `axis`; refuse the batch.

        What counts from the last axis goes on doing so: the shape of what an activation acts on is not known.
        """
        rank = len(self.shape) + added
        if int(axis) % rank == 0:
            raise refuse(self.layer, "it works along the batch", "let it work along the features")
        return int(axis) if axis < 0 else int(axis) + self.outer

    def axes(self, axes: Any) -> list[int]:
        """Return the axes of the graph's value, ascending, for what Keras calls `axis`: a number, several, or None."""
        listed = range(len(self.shape)) if axes is None else [axes] if np.ndim(axes) == 0 else axes
        return sorted({self.axis(axis) % self.rank for axis in listed})

    def new_axes(self, axes: Any) -> list[int]:
        """Return where the graph's value gets new axes, for those that Keras would give it."""
        listed = [axes] if np.ndim(axes) == 0 else axes
        return sorted(self.axis(axis, len(listed)) % (self.rank + len(listed)) for axis in listed)

    def size(self, axis: int) -> int:
        """Return how long an axis of the graph's value is; refuse one that is not fixed, such as time."""
        size = self.shape[axis - self.outer if axis >= 0 else axis]
        if size is None:
            raise refuse(self.layer, "it needs to know how many frames there are", "let it work along the features")
        return size

    def operands(self, graph: Builder, dtype: str | None = None) -> list[ir.Value]:
        """Return all positional arguments as values of one dtype, numbers and arrays as constants."""
        listed = len(self.args) == 1 and isinstance(self.args[0], list | tuple)
        given = self.args[0] if listed else self.args
        return [_as(dtype or self.dtypes[0], item, graph) for item in given if item is not None]

    @property
    def common_dtype(self) -> str:
        """The dtype in which Keras compares the arguments."""
        import keras

        kinds = [item.dtype if isinstance(item, Tensor) else getattr(item, "dtype", type(item)) for item in self.args]
        return str(keras.backend.result_type(*kinds))

    def inside(self, layer: Any) -> Call:
        """Return the call of the layer inside TimeDistributed: the same values, of which it does not see time."""
        first = self.tensors[0]
        seen = replace(first, shape=(first.shape[0], *first.shape[2:]))
        return replace(self, layer=layer, args=(seen,), kwargs={}, outer=self.outer + 1)

    def of(self, layer: Any) -> Call:
        """Return the same call of another layer."""
        return replace(self, layer=layer)

    @overload
    def __getitem__(self, index: int) -> ir.Value: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ir.Value]: ...
    def __getitem__(self, index: int | slice) -> ir.Value | Sequence[ir.Value]:
        """Return a value, or several."""
        tensors = self.tensors[index]
        return tensors.value if isinstance(tensors, Tensor) else [tensor.value for tensor in tensors]

    def __len__(self) -> int:
        """Return how many values there are."""
        return len(self.tensors)


def refuse(layer: Any, reason: str, way_out: str = "") -> UnsupportedLayerError:
    """Make the error that names a layer, the reason, and what can be done."""
    return UnsupportedLayerError(
        f"layer '{layer.name}' ({type(layer).__name__}): {reason}" + (f"; {way_out}" if way_out else "")
    )


def _flat(items: Any) -> Iterator[Any]:
    for item in items:
        if isinstance(item, list | tuple):
            yield from _flat(item)
        else:
            yield item


def _as(dtype: str, item: Any, graph: Builder) -> ir.Value:
    if not isinstance(item, Tensor):
        return graph.constant(np.asarray(item).astype(dtype), "operand")
    if item.dtype == dtype:
        return item.value
    return graph.op("Cast", item.value, to=int(ir.DataType.from_numpy(np.dtype(dtype))))

"""Which axis of each input and output of an ONNX file is time, and which one is the batch.

Nothing is read from names. The model is run; then one axis of its inputs gets another size, and it is run again: the
axis is time if the recurrent operators and convolutions now have more frames to go through. Where there are none of
these, as in a transformer, it is the one axis whose size the file leaves open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgernn.errors import ConversionError, UsageError
from edgernn.quantize.graph import attribute
from edgernn.quantize.onnx_files.layout import Layout
from edgernn.quantize.onnx_files.probe import Probe, Run

__all__ = ["Axes", "NoTimeAxisError", "find_axes"]


class NoTimeAxisError(UsageError):
    """Some inputs bring no frames."""

    def __init__(self, message: str, inputs: Sequence[str]) -> None:
        super().__init__(message)
        self.inputs = inputs


MOST_OTHERS = 24  # size of the other open axes while one is tried, where they cannot be one
LENGTHS = ((24, 36), (240, 360), (4800, 7200))  # pairs of sizes that are tried: multiples of many strides


@dataclass(frozen=True)
class _Group:
    """Axes of inputs that have one size together: `(input, axis)`."""

    members: tuple[tuple[str, int], ...]
    declared: int | None
    """Their size where the file fixes it."""

    def __str__(self) -> str:
        return " and ".join(f"{name}={axis}" for name, axis in self.members)


@dataclass(frozen=True)
class Axes:
    """What the axes of a model are, and three runs that show it."""

    layouts: Mapping[str, Layout]
    """Of each input that brings frames."""
    runs: tuple[Run, ...]
    """One stream of some length, one stream of another length and, if `batch_is_free`, two streams of the first."""
    lengths: tuple[int, int]
    batch_is_free: bool


def find_axes(model: ir.Model, probe: Probe, frames: Sequence[ir.Value], asked: Mapping[str, int]) -> Axes:
    """Find the axes of the inputs `frames`, or take time from `asked` for the inputs that it names.

    Raises `UsageError` where the axis cannot be told, saying what was found.
    """
    groups = _groups(frames)
    time = _asked(groups, frames, asked) if asked else _time(model, probe, frames, groups)
    return _runs(probe, frames, time)


def _groups(frames: Sequence[ir.Value]) -> list[_Group]:
    """Put axes of one name together, and axes of one place and declared size."""
    members: dict[tuple[object, ...], list[tuple[str, int]]] = {}
    sizes: dict[tuple[object, ...], int | None] = {}
    for value in frames:
        for axis, size in enumerate(value.shape or ()):
            name = None if isinstance(size, int) else size.value
            key: tuple[object, ...] = (name,) if name else (axis, size if isinstance(size, int) else None)
            members.setdefault(key, []).append((value.name or "", axis))
            sizes[key] = size if isinstance(size, int) and size > 0 else None
    return [_Group(tuple(pairs), sizes[key]) for key, pairs in members.items()]


def _asked(groups: Sequence[_Group], frames: Sequence[ir.Value], asked: Mapping[str, int]) -> _Group:
    ranks = {value.name: len(value.shape or ()) for value in frames}
    for name, axis in asked.items():
        if name not in ranks:
            raise UsageError(
                f"--time-axis {name}={axis}: there is no such input; there are {', '.join(map(str, ranks))}"
            )
        if not -ranks[name] <= axis < ranks[name]:
            raise UsageError(f"--time-axis {name}={axis}: the input has {ranks[name]} axes, counted from 0")
    pairs = [(name, axis % ranks[name]) for name, axis in asked.items()]
    others = [
        pair
        for group in groups
        if any(pair in group.members for pair in pairs)
        for pair in group.members
        if pair[0] not in asked
    ]
    members = tuple(dict.fromkeys([*pairs, *others]))
    return _Group(members, next(group.declared for group in groups if members[0] in group.members))


def _time(model: ir.Model, probe: Probe, frames: Sequence[ir.Value], groups: Sequence[_Group]) -> _Group:
    evidence = list(_evidence(model))
    tried: list[tuple[ir.Node, _Group]] = []
    for pair in LENGTHS if evidence else ():
        tried = tried or list(_moving(probe, frames, groups, groups, pair, evidence))
        tried = tried or list(_moving(probe, frames, groups, _joined(groups), pair, evidence))
    recurrent = [item for item in tried if item[0].op_type in RECURRENT]
    found = list(dict.fromkeys(group for _, group in recurrent or tried))
    if len(found) > 1:  # a convolution over time and frequency goes along both: the one that may get longer is time
        found = [group for group in found if group.declared is None] or found
    if not evidence:
        found = [group for group in groups if group.declared is None]
    if len(found) == 1:
        return found[0]
    inputs = ", ".join(f"{value.name} {_text(value)}" for value in frames)
    operators = " and ".join(sorted({node.op_type for node, *_ in evidence}))
    told = f"it is looked for at {operators}, and no axis can change its length" if operators else NO_OPERATOR
    if tried:
        told = "; ".join(f"{node.name} ({node.op_type}) goes along {group}" for node, group in recurrent or tried)
    raise UsageError(
        f"cannot tell which axis is time: {told}; inputs: {inputs}; say it with --time-axis INPUT=AXIS, from 0, "
        "or export the model with a dynamic time axis (dynamic_shapes or dynamic_axes)"
    )


def _text(value: ir.Value) -> str:
    return "[" + ", ".join(str(size) for size in value.shape or ()) + "]"


NO_OPERATOR = "it is looked for at recurrent operators and convolutions, and there are none"
RECURRENT = ("GRU", "LSTM", "RNN")
WINDOWS = ("AveragePool", "Conv", "ConvTranspose", "MaxPool")


def _evidence(model: ir.Model) -> Iterator[tuple[ir.Node, str, tuple[int, ...]]]:
    """Give the nodes that go along time, with the axes of their input that this may be."""
    for node in model.graph:
        source = node.inputs[0] if node.inputs else None
        if source is None:
            continue
        if node.op_type in RECURRENT:
            yield node, source.name or "", (1 if attribute(node, "layout", 0) else 0,)
        elif node.op_type in WINDOWS:
            yield node, source.name or "", (2, 3)


def _moving(
    probe: Probe,
    frames: Sequence[ir.Value],
    groups: Sequence[_Group],
    candidates: Sequence[_Group],
    pair: tuple[int, int],
    evidence: Sequence[tuple[ir.Node, str, tuple[int, ...]]],
) -> Iterator[tuple[ir.Node, _Group]]:
    """Give each node that has more frames to go through when a group of axes gets longer, and that group."""
    for group in candidates:
        for others in (1, pair[0]) if pair[0] <= MOST_OTHERS else (1,):
            sizes = {other: others for other in groups if other.declared is None}
            first = group.declared or pair[0]
            base = probe(_shapes(frames, {**sizes, group: first}))
            run = probe(_shapes(frames, {**sizes, group: first + pair[1] - pair[0]})) if base else None
            if not base or not run:
                continue
            for node, name, axes in evidence:
                if any(_size(run, name, axis) != _size(base, name, axis) for axis in axes):
                    yield node, group
            break


def _joined(groups: Sequence[_Group]) -> list[_Group]:
    """Return the axes of one place together: files may have another name for each."""
    places: dict[int, list[_Group]] = {}
    for group in groups:
        for place in {axis for _, axis in group.members}:
            places.setdefault(place, []).append(group)
    return [
        _Group(tuple(pair for group in several for pair in group.members), several[0].declared)
        for several in places.values()
        if len(several) > 1
    ]


def _size(run: Run, name: str, axis: int) -> int:
    shape = run[name].shape
    return shape[axis] if axis < len(shape) else 0


def _shapes(frames: Sequence[ir.Value], sizes: Mapping[_Group, int]) -> dict[str, tuple[int, ...]]:
    chosen = {pair: size for group, size in sizes.items() for pair in group.members}
    return {
        value.name or "": tuple(
            chosen.get((value.name or "", axis), size if isinstance(size, int) else 1)
            for axis, size in enumerate(value.shape or ())
        )
        for value in frames
    }


def _runs(probe: Probe, frames: Sequence[ir.Value], time: _Group) -> Axes:
    axes = dict(time.members)
    missing = [value.name or "" for value in frames if value.name not in axes]
    if missing:
        raise NoTimeAxisError(
            f"the inputs {', '.join(missing)} have no axis along which {time} goes; say what they are: "
            "--time-axis INPUT=AXIS, --state INPUT=OUTPUT, or --constant INPUT=NUMBER",
            missing,
        )
    batch = _batch(frames, axes)
    for first, second in LENGTHS:
        runs = [probe(_placed(frames, axes, batch, length, 1)) for length in (first, second)]
        if runs[0] is not None and runs[1] is not None:
            several = None if None in batch.values() else probe(_placed(frames, axes, batch, first, 2))
            layouts = {name: Layout(batch[name], axis) for name, axis in axes.items()}
            kept = [run for run in (*runs, several) if run is not None]
            return Axes(layouts, tuple(kept), (first, second), several is not None)
    if not time.declared:
        raise ConversionError(
            f"the model cannot be run over sequences of other lengths along {time}, though the file leaves that axis "
            "open: a length was written down inside, as PyTorch's old exporter does for nn.MultiheadAttention; export "
            "it with torch.onnx.export(dynamo=True), with need_weights=False where it attends"
        )
    sizes = f"its length is fixed at {time.declared}"
    raise ConversionError(
        f"the model cannot be run over sequences of other lengths along {time}: {sizes}; export it with a dynamic time "
        "axis (dynamic_shapes or dynamic_axes)"
    )


def _batch(frames: Sequence[ir.Value], time: Mapping[str, int]) -> dict[str, int | None]:
    """Take the first axis besides time that has no fixed size, or one; an input of frames alone has none."""
    batch: dict[str, int | None] = {}
    for value in frames:
        name, shape = value.name or "", value.shape or ()
        open_axes = [a for a, size in enumerate(shape) if a != time[name] and (not isinstance(size, int) or size == 1)]
        first = [a for a in range(2) if a != time[name] and a < len(shape)]
        batch[name] = open_axes[0] if open_axes else first[0] if first and len(shape) > 2 else None
    return batch


def _placed(
    frames: Sequence[ir.Value], time: Mapping[str, int], batch: Mapping[str, int | None], length: int, streams: int
) -> dict[str, tuple[int, ...]]:
    def size(name: str, axis: int, declared: object) -> int:
        if axis == time[name]:
            return length
        if axis == batch[name]:
            return streams
        return declared if isinstance(declared, int) else 1

    return {
        value.name or "": tuple(size(value.name or "", axis, size_) for axis, size_ in enumerate(value.shape or ()))
        for value in frames
    }

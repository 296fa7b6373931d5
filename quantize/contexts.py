"""Contexts: inputs of a model without time, given once when a stream begins and held from then on.

An encoder's output that a decoder attends to, the embedding of a speaker, a set of prototypes, an initial state. Whose
sequences may have any length says so by an open axis; an input of one size beside such sequences is no sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edgernn.errors import UsageError

__all__ = ["Asked", "Contexts", "contexts_of", "in_time", "read_contexts"]

Contexts = Mapping[str, int]
"""Names of inputs to their size behind the batch: how long a memory is or, without an axis for that, its features."""
Asked = Mapping[str, int | None]
"""The same as a user says it; None for the size that the model has."""
SAY = "--context INPUT or, where the model leaves its length open, --context INPUT=LENGTH"


def read_contexts(given: Iterable[str]) -> Asked:
    """Read options of the command line, `INPUT` or `INPUT=LENGTH`; raise `UsageError` for what is neither.

    >>> read_contexts(["speaker", "memory=20"])
    {'speaker': None, 'memory': 20}
    """
    asked: dict[str, int | None] = {}
    for text in given:
        name, equals, size = text.partition("=")
        if not name or (equals and not (size.isdecimal() and int(size) > 0)):
            raise UsageError(f"--context {text}: expected {SAY}")
        if asked.setdefault(name, int(size) if equals else None) != (int(size) if equals else None):
            raise UsageError(f"--context {text}: {name} was given another length already; give it once")
    return asked


def contexts_of(model: Any, asked: Asked | None = None) -> Contexts:
    """Return the contexts of a Keras model: those asked for, and inputs of one size where another has an open length.

    Raises `UsageError` for one that the model does not have, or whose length does not fit or is not known, where no
    input is left to bring frames, and where those that are left differ in length.
    """
    asked, shapes = asked or {}, {tensor._keras_history.operation.name: tensor.shape for tensor in model.inputs}
    open_ones = [name for name, shape in shapes.items() if len(shape) > 1 and shape[1] is None and name not in asked]
    fixed = {name: int(shape[1]) for name, shape in shapes.items() if len(shape) > 1 and shape[1] is not None}
    found = {name: size for name, size in fixed.items() if name in asked or open_ones}
    for name, size in asked.items():
        said = f"--context {name}" + (f"={size}" if size else "")
        if name not in shapes:
            raise UsageError(f"{said}: there is no such input; there are {', '.join(shapes)}")
        if size is None and name not in fixed:
            raise UsageError(
                f"{said}: its length is open, and a step holds a fixed one; say it: --context {name}=LENGTH"
            )
        if size is not None and fixed.get(name, size) != size:
            raise UsageError(f"{said}: in the model it has the size {fixed[name]}; leave the length out")
        found[name] = size or fixed[name]
    if len(found) == len(shapes):
        raise UsageError(f"every input is a context ({', '.join(shapes)}), and none brings frames; leave --context out")
    lengths = {name: size for name, size in fixed.items() if name not in found}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} of {size} frames" for name, size in lengths.items())
        raise UsageError(f"the inputs differ in length ({said}): say which is no sequence with --context INPUT")
    return {name: found[name] for name in shapes if name in found}


def in_time(
    stream: Sequence[NDArray[Any]], inputs: int, change: Callable[[NDArray[Any]], NDArray[Any]]
) -> tuple[NDArray[Any], ...]:
    """Change the first `inputs` arrays of a stream, which have frames; those of contexts, behind them, stay."""
    return (*map(change, stream[:inputs]), *stream[inputs:])

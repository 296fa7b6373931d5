"""Which inputs of an ONNX file are states, and which output gives each of them anew."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgernn.errors import UsageError

__all__ = ["candidates", "find_states", "states_by_shape"]

# words that say on which side of the step a state is, and nothing else
SIDES = frozenset(
    ("in", "out", "input", "output", "new", "next", "prev", "previous", "old", "updated", "init", "initial")
)


def find_states(model: ir.Model, asked: Mapping[str, str]) -> dict[str, str]:
    """Return the states as `{input: output}`: those that were asked for or, if none was, pairs told by name and shape.

    A pair has one type, shapes that agree, and names that differ by a side only, such as `h_in` and `h_out`, `state`
    and `stateN`, `h0` and `hn`, `cached_len_0` and `new_cached_len_0`. Raises `UsageError` for one that was asked for
    and cannot be, where one input has several outputs, and where no input would be left to bring frames.
    """
    inputs = {value.name or "": value for value in model.graph.inputs}
    outputs = {value.name or "": value for value in model.graph.outputs}
    for entering, leaving in asked.items():
        _check(entering, leaving, inputs, outputs)
    if asked:
        return dict(asked)
    states: dict[str, str] = {}
    for key in (_same_but_side, _same_but_count):
        for name, value in inputs.items():
            free = [other for other in outputs if other not in states.values() and _agree(value, outputs[other])]
            found = [other for other in free if key(name) and key(name) == key(other)]
            if len(found) > 1 and name not in states:
                raise UsageError(_ambiguous(value, found))
            if found and name not in states:
                states[name] = found[0]
    if states and len(states) == len(inputs):
        pairs = " ".join(f"--state {entering}={leaving}" for entering, leaving in states.items())
        raise UsageError(
            f"every input has an output like it, so that none brings frames: give those that are states, of {pairs}"
        )
    return states


def states_by_shape(model: ir.Model, names: Sequence[str], states: Mapping[str, str]) -> dict[str, str]:
    """Return the outputs that the inputs `names` must belong to, because no other has their shape and type."""
    found: dict[str, str] = {}
    for value in model.graph.inputs:
        if value.name not in names:
            continue
        free = [
            item.name or ""
            for item in model.graph.outputs
            if item.name not in states.values() and len(item.shape or ()) > 1 and _agree(value, item)
        ]
        if len(free) != 1:
            raise UsageError(_ambiguous(value, free))
        found[value.name or ""] = free[0]
    if len(set(found.values())) < len(found):
        names = [name for name, output in found.items() if list(found.values()).count(output) > 1]
        raise UsageError(f"the inputs {', '.join(names)} have the shape of one output, {found[names[0]]}; {SAY}")
    return found


def candidates(model: ir.Model, states: Mapping[str, str]) -> str:
    """Return what may be said of states beside those that are known: for each other input, the outputs like it.

    Empty where one input is left, which brings frames, and where no output is like any of them.
    """
    inputs = [value for value in model.graph.inputs if value.name not in states]
    outputs = [value for value in model.graph.outputs if value.name not in states.values()]
    pairs = [[f"--state {v.name}={item.name}" for item in outputs if _alike(v, item)] for v in inputs]
    return ", ".join(" or ".join(found) for found in pairs if found) if len(inputs) > 1 else ""


def _alike(value: ir.Value, output: ir.Value) -> bool:
    """Tell whether a value may be a state: an output has its fixed sizes, one of them beyond one."""
    sizes = value.shape or ()
    return _agree(value, output) and output.shape is not None and any(isinstance(s, int) and s > 1 for s in sizes)


SAY = "say which is which with --state INPUT=OUTPUT, or what else an input is with --constant INPUT=VALUE"


def _ambiguous(value: ir.Value, outputs: Sequence[str]) -> str:
    if outputs:
        pairs = " or ".join(f"--state {value.name}={output}" for output in outputs)
        return f"the input {value.name} {_shape(value)} may belong to several outputs: give {pairs}"
    return f"the input {value.name} {_shape(value)} brings no frames, and no output is like it; {SAY}"


def _check(entering: str, leaving: str, inputs: Mapping[str, ir.Value], outputs: Mapping[str, ir.Value]) -> None:
    for name, there, what in ((entering, inputs, "input"), (leaving, outputs, "output")):
        if name not in there:
            raise UsageError(f"--state {entering}={leaving}: there is no {what} {name}; there are {', '.join(there)}")
    if not _agree(inputs[entering], outputs[leaving]):
        raise UsageError(
            f"--state {entering}={leaving}: the one is {_shape(inputs[entering])}, the other {_shape(outputs[leaving])}"
        )


def _shape(value: ir.Value) -> str:
    return f"{value.dtype} [{', '.join(str(size) for size in value.shape or ())}]"


def _agree(one: ir.Value, other: ir.Value) -> bool:
    """Tell whether two values may have one shape and type; open sizes may be anything."""
    if one.dtype != other.dtype or one.shape is None:
        return False
    if other.shape is None:
        return True
    pairs = list(zip(one.shape, other.shape, strict=False))
    fixed = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
    return len(one.shape) == len(other.shape) and all(a == b for a, b in fixed)


def _words(name: str) -> list[str]:
    """Return the words and numbers of a name: `newState_2` is new, state, 2."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]


def _same_but_side(name: str) -> tuple[str, ...]:
    """Return the words of a name without sides; a name of nothing else is none.

    >>> _same_but_side("new_cached_len_0")
    ('cached', 'len', '0')
    """
    words = tuple(word for word in _words(name) if word not in SIDES)
    return words if any(not word.isdigit() for word in words) else ()


def _same_but_count(name: str) -> tuple[str, ...]:
    """Return the words without sides and without a 0 or n at the end, for the first and the last of a sequence.

    >>> _same_but_count("stateN"), _same_but_count("h0"), _same_but_count("hn")
    (('state',), ('h',), ('h',))
    """
    words = _same_but_side(re.sub(r"^([a-z])n$|(?<=[a-z])N$", r"\1_n", name))
    return words[:-1] if len(words) > 1 and words[-1] in ("0", "n") else words

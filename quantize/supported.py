"""What has a rule: the whole list for `edgernn convert --list-layers`, the nearest names for a refusal."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable

__all__ = ["instead_of", "listing"]


def instead_of(name: str, known: Iterable[str]) -> str:
    """Return what can be done about a name that no rule is known for: the nearest ones, and where the others are.

    >>> instead_of("CumSum", ["ReduceSum", "Relu", "Sum"])
    'the nearest that have one: Sum, ReduceSum; edgernn convert --list-layers prints all'
    """
    by_lower = {item.lower(): item for item in known}
    near = [by_lower[item] for item in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    hint = f"the nearest that have one: {', '.join(near)}; " if near else ""
    return f"{hint}edgernn convert --list-layers prints all"


def listing(width: int = 100) -> str:
    """Return all Keras layers, operations of keras.ops and ONNX operators that have a rule, in lines of `width`."""
    import edgernn.quantize.layers
    import edgernn.quantize.onnx_files.operators
    import edgernn.quantize.rules  # noqa: F401  (all three fill their tables)
    from edgernn.quantize.from_keras import with_rules
    from edgernn.quantize.onnx_files.importer import imported
    from edgernn.quantize.streaming import operators_with_rules

    families = {
        "Keras layers (any other one, your own too, is read as what its code calls)": with_rules("layers"),
        "operations of keras.ops, in such code and in functional models": with_rules("ops"),
        "ONNX operators, in opset 17 (what a file computes from constants alone needs no rule)": sorted(
            {*operators_with_rules(), *imported(), "If", "Loop"}
        ),
    }
    return "\n\n".join(
        f"{title}:\n" + textwrap.fill(", ".join(names), width, initial_indent="  ", subsequent_indent="  ")
        for title, names in families.items()
    )

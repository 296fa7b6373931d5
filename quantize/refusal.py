"""The error for a node that has no streaming form."""

from __future__ import annotations

import onnx_ir as ir

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.graph import scope_of

__all__ = ["refusal"]


def refusal(node: ir.Node, reason: str, way_out: str = "") -> UnsupportedLayerError:
    """Make the error that names a node, the reason, and what can be done."""
    where = scope_of(node) or node.name or "the model"
    return UnsupportedLayerError(
        f"{where} ({node.op_type}) has no streaming form: {reason}" + (f"; {way_out}" if way_out else "")
    )

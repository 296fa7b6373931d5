"""The step graph to an ONNX file for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir

from edgernn.quantize.calibrate import Ranges
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.onnx_integers import integer_lstm, integer_products
from edgernn.quantize.onnx_weights import byte_weights, half_weights, nibble_products
from edgernn.quantize.ranges import choose, product_inputs
from edgernn.quantize.schemes import Scheme
from edgernn.quantize.simplify import simplify
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import StreamSpec

__all__ = ["to_onnx"]


def to_onnx(
    kept: StepGraph, taken_apart: StepGraph, spec: StreamSpec, scheme: Scheme, ranges: Ranges | None
) -> tuple[bytes, StreamSpec]:
    """Return the file's bytes and the spec of its tensors: inputs, outputs and states are float32 in every scheme.

    Float schemes keep the recurrent operators (`kept`). In integers ONNX Runtime has an LSTM that quantizes its input
    as it comes, and no GRU or RNN: these are taken apart; what has no product in integers, such as a Conv over several
    frames, keeps its weights in 8 bits at least. `ranges` is needed for int8.
    """
    builds: dict[str, Callable[[], ir.Model]] = {
        "float32": lambda: kept.model,
        "float16": lambda: half_weights(kept.model),
        "weights-int8": lambda: byte_weights(kept.model),
        "dynamic-int8": lambda: byte_weights(_dynamic(kept, taken_apart)),
        "int8": lambda: byte_weights(_static(taken_apart, ranges)),
        "int4": lambda: byte_weights(nibble_products(taken_apart.model)),
    }
    return _serialize(ir.to_proto(builds[scheme.name]())), spec


def _dynamic(kept: StepGraph, taken_apart: StepGraph) -> ir.Model:
    """Quantize what products read as it comes: of several streams or frames each by itself.

    The LSTM in integers does not, which no stream of a batch may bear; for several frames it stays, being twice as
    fast as one that is taken apart.
    """
    if kept.batch > 1:
        return integer_products(taken_apart.model, by_row=True)
    model = simplify(decompose_cells(integer_lstm(kept.model), rolled=True))
    return integer_products(model, by_row=kept.frames_per_step > 1)


def _static(step: StepGraph, ranges: Ranges | None) -> ir.Model:
    """Quantize what products read, with a scale that was chosen beforehand.

    The states stay in float: a product reads what it would read of eight bits, and nothing adds up in them.
    """
    assert ranges is not None
    params = choose(ranges, product_inputs(step))
    return integer_products(step.model, {value.name or "": quant for value, quant in params.items()})


def _serialize(proto: onnx.ModelProto) -> bytes:
    del proto.graph.value_info[:]  # stale where a pass changed dtypes; ONNX Runtime infers its own
    onnx.checker.check_model(proto.SerializeToString())
    content: bytes = proto.SerializeToString()
    return content

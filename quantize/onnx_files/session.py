"""The file itself in ONNX Runtime, with an end to its patience."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from edgernn.errors import ConversionError
from edgernn.quantize.onnx_files.memory import MOST_GB, limited_memory

__all__ = ["Session", "TooLargeError", "open_sizes"]

PATIENCE_S = 120.0  # for one run: a loop without an end is stopped after it


class TooLargeError(ConversionError):
    """A model needs more memory than it is given."""


class Session:
    """A model in ONNX Runtime, as it is written: nothing in it is optimized.

    A GRU that gets no frames is a failure of the run (measured with ONNX Runtime 1.32: it ends the process).
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # nobody asked for reports to a third party
        import onnxruntime as ort

        self._options = ort.RunOptions
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            with limited_memory():
                self._session = ort.InferenceSession(
                    _guarded(proto).SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
                )
        except Exception as error:  # its exceptions have no base of their own below Exception
            raise _failure("open", error) from error

    def __call__(self, fed: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, Any]:
        """Run once; return what was asked for by name. Raises `ConversionError` where the model cannot be run."""
        options = self._options()
        options.log_severity_level = 4
        timer = threading.Timer(PATIENCE_S, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            with limited_memory():
                return dict(zip(names, self._session.run(list(names), dict(fed), options), strict=True))
        except Exception as error:  # see above
            raise _failure("run", error) from error
        finally:
            timer.cancel()


MEMORY = re.compile("Failed to allocate memory|bad.alloc|would require more than")
NODE = re.compile(r"while running (\w+) node\. Name:'([^']*)'")


def _failure(what: str, error: Exception) -> ConversionError:
    line = " ".join(str(error).split())
    if isinstance(error, MemoryError) or MEMORY.search(line):
        node = NODE.search(line)
        where = f" (node {node[2]}, {node[1]})"[:100] if node else ""
        return TooLargeError(f"ONNX Runtime cannot {what} the model within {MOST_GB:.2g} GB of memory{where}")
    return ConversionError(f"ONNX Runtime cannot {what} the model: {line[:300]}")


def open_sizes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Let every axis of every input have any size; forget sizes that were written down for other values."""
    del proto.graph.value_info[:]
    for item in proto.graph.input:
        for number, dim in enumerate(item.type.tensor_type.shape.dim):
            dim.dim_param = f"{item.name}_{number}"
    for item in proto.graph.output:
        item.type.tensor_type.ClearField("shape")
    return proto


def _guarded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Put a Reshape before each GRU that leaves frames as they are, and cannot tell the size of an axis of none."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    _guard(model.graph)
    return model


def _guard(graph: onnx.GraphProto) -> None:
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _guard(attribute.g)
        if node.op_type == "GRU":
            shape, frames = (f"{''.join(node.output)}_{part}" for part in ("same_shape", "frames"))
            same = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [3], [0, 0, -1])
            graph.node.append(onnx.helper.make_node("Constant", [], [shape], value=same))
            graph.node.append(onnx.helper.make_node("Reshape", [node.input[0], shape], [frames]))
            node.input[0] = frames
        graph.node.append(node)

"""The process that takes a SavedModel apart: `python -m edgernn.quantize.saved_graphs.freeze FOLDER TARGET`.

It writes into the folder TARGET what the SavedModel serves: as `model.onnx`, by tf2onnx, and as a TensorFlow graph with
constants for its variables. It is a process of its own because damaged checkpoints and graphs can crash TensorFlow, and
a loop in a graph need not end. Its last line on standard error says what went wrong.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgernn.errors import ConversionError, EdgeRNNError, UnsupportedLayerError
from edgernn.files import check_file
from edgernn.quantize.graph import OPSET, identifier
from edgernn.quantize.onnx_files.memory import MOST_GB, limited_memory
from edgernn.quantize.saved_graphs.run import FrozenGraph, write_frozen
from edgernn.quantize.saved_graphs.served import Served, read_served
from edgernn.text import one_line

__all__ = ["MODEL", "freeze"]

MODEL = "model.onnx"
LENGTHS = (24, 240)  # frames that the graph is run on


def freeze(folder: Path, target: Path) -> None:
    """Bring what a SavedModel serves to ONNX; raise `ConversionError` where that cannot be done."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    served = read_served(folder)
    function = _function(served, _values(folder, served))
    concrete = function.get_concrete_function()
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True)
    inputs = {identifier(name): tensor.name for name, tensor in zip(served.inputs, frozen.inputs, strict=True)}
    outputs = {identifier(name): tensor.name for name, tensor in zip(served.outputs, frozen.outputs, strict=True)}
    write_frozen(target, frozen.graph.as_graph_def(), inputs, outputs)
    _try(FrozenGraph(target))
    _write_onnx(target / MODEL, function, list(inputs), list(outputs))


def _values(folder: Path, served: Served) -> dict[str, Any]:
    """Return the value of each variable, by the tensor that stands for it."""
    import tensorflow as tf
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    try:
        for file in (folder / "variables").iterdir():
            check_file(file)
        reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
        nodes = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")).nodes
        return {tensor: reader.get_tensor(_key(nodes, path)) for tensor, path in served.variables.items()}
    except Exception as error:  # TensorFlow's reader raises what it likes
        raise ConversionError(f"{folder}: its values cannot be read: {one_line(error)}; export it anew") from error


def _key(nodes: Any, path: tuple[str, ...]) -> str:
    """Return under which key a variable is in the checkpoint."""
    node = nodes[0]
    for name in path:
        node = nodes[{child.local_name: child.node_id for child in node.children}[name]]
    return str(node.attributes[0].checkpoint_key)


def _function(served: Served, values: dict[str, Any]) -> Any:
    """Return what is served as a `tf.function`."""
    import tensorflow as tf

    variables = {tensor: tf.Variable(value) for tensor, value in values.items()}
    specs = [
        tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.dtypes.as_dtype(info.dtype), identifier(name))
        for name, info in served.inputs.items()
    ]

    def serve(*inputs: Any) -> list[Any]:
        graph = tf.compat.v1.get_default_graph()
        mapped = {info.name: tensor for info, tensor in zip(served.inputs.values(), inputs, strict=True)}
        for tensor, variable in variables.items():
            graph.watch_variable(variable)
            mapped[tensor] = graph.capture(variable.handle)
        found = tf.graph_util.import_graph_def(served.graph, mapped, list(served.outputs.values()), name="")
        return [tf.identity(tensor) for tensor in found]

    return tf.function(serve, input_signature=specs, autograph=False)


def _try(graph: FrozenGraph) -> None:
    """Run the graph here, where a crash ends only this process, and a loop without an end only takes its time.

    Raises `ConversionError` where it runs at none of the lengths: a graph may refuse one.
    """
    failures = []
    for length in LENGTHS:
        fed = {
            name: np.zeros([size or (length if axis else 1) for axis, size in enumerate(shape)], np.float32)
            for name, shape in graph.shapes.items()
        }
        try:
            graph(fed, [])
        except ConversionError as error:
            failures.append(error)
    if len(failures) == len(LENGTHS):
        raise failures[-1]


def _write_onnx(path: Path, function: Any, inputs: list[str], outputs: list[str]) -> None:
    import onnx
    import tf2onnx
    from onnx import defs

    more: dict[str, Any] = {"Erfc": (_erfc, [])}  # tf2onnx 1.17 has none; Keras' exact gelu has one
    proto, _ = tf2onnx.convert.from_function(function, input_signature=(), opset=OPSET, custom_op_handlers=more)
    foreign = sorted({node.op_type for node in proto.graph.node if not defs.has(node.op_type, node.domain)})
    if foreign:
        raise UnsupportedLayerError(f"tf2onnx has no ONNX operators for {', '.join(foreign)}")
    for names, values in ((inputs, proto.graph.input), (outputs, proto.graph.output)):
        for name, value in zip(names, values, strict=True):
            _rename(proto.graph, value.name, name)
    onnx.save(proto, path)


def _erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """Write the complementary error function as 1 - Erf."""
    node.type = "Erf"
    inverse = graph.insert_new_node_on_output("Neg", node.output[0], name=f"{name}_negative")
    one = graph.make_const(f"{name}_one", np.ones((), np.float32)).output[0]
    total = graph.insert_new_node_on_output("Add", inverse.output[0], name=f"{name}_complement")
    total.input.append(one)


def _rename(graph: Any, old: str, new: str) -> None:
    """Rename a value of the main graph, wherever it is read."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, old, new)
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name


def _main(folder: str, target: str) -> int:
    """Return the exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is proven here is what any machine computes
    try:
        import tensorflow  # noqa: F401  (takes its own memory before any is counted)

        with limited_memory():
            freeze(Path(folder), Path(target))
    except MemoryError:
        print(f"error: it needs more than {MOST_GB:.2g} GB of memory", file=sys.stderr)
        return 1
    except EdgeRNNError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))

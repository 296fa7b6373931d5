"""The process that runs the TFLite converter: `python -m …tflite_child STEP.onnx OUT.tflite`.

With one file alone, `…tflite_child STEP.tflite`, it runs that once.

It is a process of its own because that converter can end the one it runs in (measured with TensorFlow 2.21: int8 of
rolled recurrent layers ends in a segmentation fault). Its last line on standard error says what went wrong.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(source: str, target: str) -> int:
    """Convert a step graph and write the TFLite file, in float32."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # converting needs no GPU, and finding none would be reported at length
    import onnx_ir as ir
    import tensorflow as tf

    from edgernn.errors import EdgeRNNError

    model = ir.load(source)
    try:
        function = _trace(model)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
        content = converter.convert()
        _invoke_once(content)
        Path(target).write_bytes(content)
    except EdgeRNNError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _trace(model: Any) -> Any:
    import onnx_ir as ir
    import tensorflow as tf

    from edgernn.quantize.graph import array_of, identifier, scope_of, shape_of
    from edgernn.quantize.tf_operators import lower

    graph = model.graph
    signature = [
        tf.TensorSpec(shape_of(value), (value.dtype or ir.DataType.FLOAT).numpy(), name=value.name)
        for value in graph.inputs
    ]

    def step(*inputs: Any) -> dict[str, Any]:
        values: dict[Any, Any] = dict(zip(graph.inputs, inputs, strict=True))
        values.update({value: tf.constant(array_of(value)) for value in graph.initializers.values()})
        for node in graph:
            tensors = [values[value] for value in node.inputs if value is not None]
            # so that messages name the layer; as an absolute name, it is not numbered anew for each node
            with tf.name_scope(identifier(scope_of(node) or node.op_type) + "/"):
                values.update(zip(node.outputs, lower(node, tensors), strict=True))
        return {value.name: values[value] for value in graph.outputs}

    return tf.function(step, input_signature=signature, autograph=False).get_concrete_function()


def _invoke_once(content: bytes) -> None:
    """Run the fresh file here, on zeros, where a crash of the kernels ends only this process."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    for item in interpreter.get_input_details():
        interpreter.set_tensor(item["index"], np.zeros(item["shape"], item["dtype"]))
    interpreter.invoke()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _invoke_once(Path(sys.argv[1]).read_bytes())
    else:
        sys.exit(main(*sys.argv[1:]))

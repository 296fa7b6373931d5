"""A float TFLite file to one of 8 bits, operator by operator.

The stock converter's own quantization is not used: it cannot compute a product in int8 and the cell around it in
float or int16, gives a state one scale going out and another coming in, and moves roundings to where they harm.
"""

from __future__ import annotations

from edgernn.quantize.calibrate import ranges_over
from edgernn.quantize.examples import Streams
from edgernn.quantize.stepping import Arrays, Invoke
from edgernn.quantize.target import CPU, Target
from edgernn.quantize.tflite_graph import TFLiteGraph
from edgernn.quantize.tflite_kinds import FLOAT, INT8, decide
from edgernn.quantize.tflite_scales import TensorRanges, choose_scales
from edgernn.quantize.tflite_write import Weights, rewrite
from edgernn.spec import StreamSpec

__all__ = ["observe_tensors", "quantize"]


def quantize(
    content: bytes, spec: StreamSpec, scheme: str, streams: Streams | None = None, target: Target = CPU
) -> bytes:
    """Return a float32 file quantized: "dynamic-int8", "int8" (which needs example streams) or "int4".

    Frames and outputs stay float32, but where the target knows integers only. Raises `ConversionError` naming an
    operator that has no integer form there.
    """
    graph = TFLiteGraph(content)
    entering, leaving = graph.ends("input"), graph.ends("output")
    states = [(entering[state.input], leaving[state.output]) for state in spec.states]
    kinds = decide(graph, states, _products(scheme, target), target.integer_only)
    ranges = observe_tensors(content, spec, streams or []) if scheme == "int8" else {}
    outputs = {item.name: INT8 if target.integer_only else FLOAT for item in spec.outputs}
    outputs |= {state.output: kinds.tensors[entering[state.input]] for state in spec.states}
    rewrite(graph, kinds, choose_scales(graph, kinds, states, ranges), outputs, _weights(scheme, target))
    return graph.content()


def _products(scheme: str, target: Target) -> str:
    if scheme != "int8":
        return "hybrid"
    return "static" if target.integer_only else "mixed"


def _weights(scheme: str, target: Target) -> Weights:
    """Older runtimes know hybrid products with one scale for all channels only."""
    return Weights(bits=4 if scheme == "int4" else 8, hybrid_per_channel=target.floor is None)


def observe_tensors(content: bytes, spec: StreamSpec, streams: Streams) -> TensorRanges:
    """Step a float file from reset through each stream and return the range of every tensor."""
    ranges = ranges_over(_with_all_tensors(content), spec, streams)
    return {int(name[1:]): span for name, span in ranges.items() if name.startswith("#")}


def _with_all_tensors(content: bytes) -> Invoke:
    """Return a function that runs a file once, and gives tensor 7 under the name "#7", beside the outputs."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=content,
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,  # XNNPACK hides tensors
    )
    interpreter.allocate_tensors()
    graph = TFLiteGraph(content)
    real = [t for t in range(graph.count()) if graph.dtype(t) == FLOAT and graph.constant(t) is None]
    entering, leaving = graph.ends("input"), graph.ends("output")

    def invoke(inputs: Arrays) -> Arrays:
        for name, array in inputs.items():
            interpreter.set_tensor(entering[name], array)
        interpreter.invoke()
        outputs = {name: interpreter.get_tensor(tensor) for name, tensor in leaving.items()}
        return outputs | {f"#{tensor}": interpreter.get_tensor(tensor) for tensor in real}

    return invoke
